//! Which clusters of a disk hold data: asked of its hypervisor once, and answered from here afterwards.

use std::ops::Range;

use blockdev::{BlockDevice, BlockSizes, Extent, ExtentKind, MappedRun, ReadAt, Result};

use super::digests::CLUSTER;

/// `ranges` of bytes in clusters: ascending, not touching.
pub fn clusters(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        let (start, end) = (range.start / CLUSTER, range.end.div_ceil(CLUSTER));
        match found.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => found.push(start..end),
        }
    }
    found
}

/// The clusters in `within` (all for `None`) of which `device` stores at least a byte.
///
/// # Errors
///
/// When it does not tell its extents.
pub fn stored(device: &dyn BlockDevice, within: Option<&[Range<u64>]>) -> Result<Vec<Range<u64>>> {
    let whole = [0..device.size().div_ceil(CLUSTER)];
    let mut found = Vec::new();
    for run in within.unwrap_or(&whole) {
        let (mut at, end) = (run.start * CLUSTER, (run.end * CLUSTER).min(device.size()));
        while at < end {
            let Some(extent) = device.extent_at(at)? else { break };
            let next = extent.range.end.min(end).max(at + 1);
            if extent.kind == ExtentKind::Data {
                found.push(at..next);
            }
            at = next;
        }
    }
    Ok(clusters(found))
}

/// A disk whose extents are known, in whole clusters. Where nobody asked for them it has none.
pub struct Stored<D> {
    device: D,
    /// Clusters: ascending, not touching.
    runs: Vec<Range<u64>>,
}

impl<D: BlockDevice> Stored<D> {
    /// `device`, which stores the clusters of `runs` (see [`stored`]).
    pub const fn new(device: D, runs: Vec<Range<u64>>) -> Self {
        Self { device, runs }
    }
}

impl<D: BlockDevice> ReadAt for Stored<D> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.device.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let size = self.size();
        if offset >= size {
            return Ok(None);
        }
        let next = self.runs.get(self.runs.partition_point(|run| run.end * CLUSTER <= offset));
        let (kind, end) = match next {
            Some(run) if run.start * CLUSTER <= offset => (ExtentKind::Data, run.end * CLUSTER),
            Some(run) => (ExtentKind::Hole, run.start * CLUSTER),
            None => (ExtentKind::Hole, size),
        };
        Ok(Some(Extent { range: offset..end.min(size), kind }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        self.device.map(offset, len)
    }
}

impl<D: BlockDevice> BlockDevice for Stored<D> {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}

#[cfg(test)]
mod tests {
    use blockdev::layers::AsDevice;

    use super::*;

    #[test]
    fn what_was_asked_is_answered() {
        let len = 10 * CLUSTER + 512;
        let disk = AsDevice::new(vec![1_u8; usize::try_from(len).expect("small")], BlockSizes::CLASSIC);
        assert_eq!(stored(&disk, None).expect("its extents"), vec![0..11]);
        let runs = stored(&disk, Some(&[2..4, 10..11])).expect("its extents");
        assert_eq!(runs, vec![2..4, 10..11]);
        let known = Stored::new(disk, runs);
        // Whoever walks it finds the same clusters, and comes to the end.
        assert_eq!(stored(&known, None).expect("what is known"), vec![2..4, 10..11]);
        let extent = known.extent_at(3 * CLUSTER + 7).expect("an answer").expect("within");
        assert_eq!((extent.range, extent.kind), (3 * CLUSTER + 7..4 * CLUSTER, ExtentKind::Data));
        let last = known.extent_at(10 * CLUSTER).expect("an answer").expect("within");
        assert_eq!((last.range.end, last.kind), (len, ExtentKind::Data));
        assert!(known.extent_at(len).expect("an answer").is_none());
    }
}
