//! Disks to make containers of, and what the tests do with a container.

use std::{collections::BTreeMap, fs::File, ops::Range, os::unix::fs::FileExt, path::Path, sync::Arc};

use blockdev::{BlockDevice, BlockSizes, Extent, ExtentKind, MappedRun, ReadAt, Result};

#[path = "../../../tests/src/random.rs"]
mod random;
pub use random::Random;

/// A disk of pieces in memory, with holes between them, where nothing is aligned.
#[derive(Clone)]
pub struct Pieces {
    pub size: u64,
    pub sizes: BlockSizes,
    /// By where they begin; they do not overlap.
    pub pieces: BTreeMap<u64, Vec<u8>>,
}

impl Pieces {
    pub const fn empty(size: u64) -> Self {
        Self { size, sizes: BlockSizes::CLASSIC, pieces: BTreeMap::new() }
    }

    /// A disk with about `count` pieces at random places, of very different lengths.
    pub fn random(size: u64, count: u64, random: &mut Random) -> Self {
        let mut disk = Self::empty(size);
        let mut at = if random.below(2) == 0 { 0 } else { random.below(size / (count + 1) + 1) };
        while at < size {
            let longest = 1 << random.below(21);
            let len = (1 + random.below(longest)).min(size - at);
            disk.pieces.insert(at, random.bytes(len as usize));
            // Sometimes the next piece touches this one.
            at += len + if random.below(4) == 0 { 0 } else { random.below(2 * size / count + 1) };
        }
        // And the end, which is where most can go wrong.
        if size > 0 && random.below(2) == 0 {
            disk.write(size - 1, &[0x55]);
        }
        disk
    }

    /// Change the disk: whatever is in the range is taken out, and `bytes` are put there.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        self.zero(at..at + bytes.len() as u64);
        self.pieces.insert(at, bytes.to_vec());
    }

    /// Make a range a hole.
    pub fn zero(&mut self, range: Range<u64>) {
        let touched: Vec<u64> = self
            .pieces
            .range(..range.end)
            .filter(|(at, p)| *at + p.len() as u64 > range.start)
            .map(|(at, _)| *at)
            .collect();
        for at in touched {
            let piece = self.pieces.remove(&at).unwrap();
            let end = at + piece.len() as u64;
            if at < range.start {
                self.pieces.insert(at, piece[..(range.start - at) as usize].to_vec());
            }
            if end > range.end {
                self.pieces.insert(range.end, piece[(range.end - at) as usize..].to_vec());
            }
        }
    }

    /// The disk as a raw file, rounded up to its blocks.
    pub fn write_raw(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.rounded()).unwrap();
        for (at, piece) in &self.pieces {
            file.write_all_at(piece, *at).unwrap();
        }
    }

    pub fn rounded(&self) -> u64 {
        self.size.next_multiple_of(u64::from(self.sizes.logical))
    }

    /// The ranges of units of `unit` bytes that hold data, joined.
    pub fn units(&self, unit: u64) -> Vec<Range<u64>> {
        let mut units: Vec<Range<u64>> = Vec::new();
        for (at, piece) in &self.pieces {
            let (start, end) = (at / unit * unit, (at + piece.len() as u64).next_multiple_of(unit));
            match units.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ => units.push(start..end),
            }
        }
        units
    }

    pub fn shared(self) -> Arc<dyn BlockDevice> {
        Arc::new(self)
    }
}

impl ReadAt for Pieces {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = (buf.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        let buf = &mut buf[..wanted];
        buf.fill(0);
        let end = offset + wanted as u64;
        let first = self.pieces.range(..=offset).next_back().map_or(0, |(at, _)| *at);
        for (at, piece) in self.pieces.range(first..end.max(first)) {
            let (from, to) = (offset.max(*at), end.min(at + piece.len() as u64));
            if from < to {
                buf[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&piece[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        if let Some((at, piece)) = self.pieces.range(..=offset).next_back()
            && at + piece.len() as u64 > offset
        {
            return Ok(Some(Extent { range: offset..at + piece.len() as u64, kind: ExtentKind::Data }));
        }
        let end = self.pieces.range(offset..).next().map_or(self.size, |(at, _)| *at);
        Ok(Some(Extent { range: offset..end, kind: ExtentKind::Hole }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Pieces {
    fn block_sizes(&self) -> BlockSizes {
        self.sizes
    }
}

/// All extents of a file, which have to be in order and without gaps.
pub fn extents(file: &dyn ReadAt) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    while let Some(extent) = file.extent_at(at).unwrap() {
        assert!(extent.range.start == at && extent.range.end > at, "{extent:?} at {at}");
        at = extent.range.end;
        match extents.last_mut() {
            Some(last) if last.kind == extent.kind => last.range.end = at,
            _ => extents.push(extent),
        }
    }
    assert_eq!(at, file.size());
    extents
}

/// Write what `file` says it stores to `path`, in pieces of random lengths and in random order.
pub fn copy_out(file: &dyn ReadAt, path: &Path, random: &mut Random) {
    let out = File::create(path).unwrap();
    out.set_len(file.size()).unwrap();
    let mut chunks = Vec::new();
    for extent in extents(file) {
        if extent.kind == ExtentKind::Hole {
            check_zeros(file, extent.range, random);
            continue;
        }
        let mut at = extent.range.start;
        while at < extent.range.end {
            let longest = 1 << random.below(21);
            let end = (at + 1 + random.below(longest)).min(extent.range.end);
            chunks.push(at..end);
            at = end;
        }
    }
    random.shuffle(&mut chunks);
    for chunk in chunks {
        let mut bytes = vec![0xaa; (chunk.end - chunk.start) as usize];
        assert_eq!(file.read_at(&mut bytes, chunk.start).unwrap(), bytes.len());
        out.write_all_at(&bytes, chunk.start).unwrap();
    }
}

/// A hole has to read as zeros: all of a short one, the ends and some of a long one.
fn check_zeros(file: &dyn ReadAt, hole: Range<u64>, random: &mut Random) {
    let mut bytes = vec![0xaa; 1 << 20];
    let last = hole.end.saturating_sub(bytes.len() as u64).max(hole.start);
    let middle = hole.start + random.below(hole.end - hole.start);
    for at in [hole.start, middle, last] {
        let len = (hole.end - at).min(bytes.len() as u64) as usize;
        bytes.fill(0xaa);
        file.read_at(&mut bytes[..len], at).unwrap();
        assert!(bytes[..len].iter().all(|byte| *byte == 0), "not all zeros in the hole {hole:?} at {at}");
    }
}

/// All bytes of `file`, read in order.
pub fn whole(file: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0xaa; file.size() as usize];
    for (index, chunk) in bytes.chunks_mut(1 << 20).enumerate() {
        assert_eq!(file.read_at(chunk, (index << 20) as u64).unwrap(), chunk.len());
    }
    bytes
}
