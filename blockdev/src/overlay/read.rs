//! The read side of an overlay.

use super::{
    Overlay,
    layout::{CLUSTER, Entry, Kind, PAGE_SPAN, SUBCLUSTER},
};
use crate::{BlockDevice, BlockSizes, Extent, ExtentKind, MappedRun, ReadAt, Result};

/// How far an extent is followed, in bytes: beyond, a caller that wants more asks again.
const EXTENT_MAX: u64 = 1 << 30;

/// A run of bytes of the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub len: u64,
    pub kind: Kind,
    /// Offset in the file, for [`Kind::Stored`].
    pub host: u64,
}

/// The run at byte `at` of the span of a page with `entries`, of at most `limit` bytes.
pub(super) fn run_in(entries: &[Entry], at: u64, limit: u64) -> Run {
    let cluster = (at / CLUSTER) as usize;
    let within = at % CLUSTER;
    let first = entries.get(cluster).copied().unwrap_or_default();
    let sub = (within / SUBCLUSTER) as u32;
    let (kind, subs) = first.run(sub);
    let mut end = u64::from(sub + subs) * SUBCLUSTER;
    for (next, passed) in entries.iter().skip(cluster + 1).zip(1..) {
        let (next_kind, next_subs) = next.run(0);
        let joins = kind != Kind::Stored || next.host == first.host.wrapping_add(passed * CLUSTER);
        if end < passed * CLUSTER || end - within >= limit || next_kind != kind || !joins {
            break;
        }
        end += u64::from(next_subs) * SUBCLUSTER;
    }
    Run { len: (end - within).min(limit), kind, host: first.host + within }
}

impl Overlay {
    /// From `offset` on, at most `limit` bytes (not 0) that were all written since the overlay was made, or all not:
    /// their number, and whether they were. This is what tells changed blocks.
    ///
    /// # Errors
    ///
    /// When a table of the overlay cannot be read.
    pub fn changed_at(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
        let run = self.run_at(offset, limit)?;
        Ok((run.len, run.kind != Kind::Absent))
    }

    /// The run at `offset`, within one page.
    pub(super) fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        let page = self.page(offset / PAGE_SPAN)?;
        let at = offset % PAGE_SPAN;
        Ok(page.look(|entries| run_in(entries, at, limit.min(PAGE_SPAN - at))))
    }

    /// Fill `buf` from the base; zeros where it ends before.
    pub(super) fn read_base(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let n = self.base.read_at(buf, offset)?;
        buf.get_mut(n..).unwrap_or_default().fill(0);
        Ok(())
    }

    fn single_extent(&self, offset: u64, limit: u64) -> Result<Extent> {
        let run = self.run_at(offset, limit)?;
        let whole = |kind| Extent { range: offset..offset + run.len, kind };
        Ok(match run.kind {
            Kind::Stored => whole(ExtentKind::Data),
            Kind::Zero => whole(ExtentKind::Hole),
            Kind::Absent => match self.base.extent_at(offset)? {
                Some(below) if below.range.end > offset => {
                    Extent { range: offset..below.range.end.min(offset + run.len), kind: below.kind }
                }
                _ => whole(ExtentKind::Data),
            },
        })
    }
}

impl ReadAt for Overlay {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let (mut rest, mut at) = (buf.get_mut(..wanted).unwrap_or_default(), offset);
        while !rest.is_empty() {
            let run = self.run_at(at, rest.len() as u64)?;
            let n = usize::try_from(run.len).unwrap_or(usize::MAX).min(rest.len());
            let (dest, tail) = rest.split_at_mut(n);
            match run.kind {
                Kind::Stored => self.medium.read(dest, run.host).map_err(|e| self.failed("read", e))?,
                Kind::Zero => dest.fill(0),
                Kind::Absent => self.read_base(dest, at)?,
            }
            at += n as u64;
            rest = tail;
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        let end = self.size.min(offset.saturating_add(EXTENT_MAX));
        let mut extent = self.single_extent(offset, end - offset)?;
        while extent.range.end < end {
            let next = self.single_extent(extent.range.end, end - extent.range.end)?;
            if next.kind != extent.kind {
                break;
            }
            extent.range.end = next.range.end;
        }
        Ok(Some(extent))
    }

    /// A run stays valid for one read operation: a write that comes after may change what has to be read where.
    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        let len = len.min(self.size.checked_sub(offset)?);
        if len == 0 {
            return None;
        }
        let run = self.run_at(offset, len).ok()?;
        match run.kind {
            Kind::Stored => Some(MappedRun { file: self.medium.file()?, offset: run.host, len: run.len }),
            Kind::Zero => None,
            Kind::Absent => self.base.map(offset, run.len),
        }
    }
}

impl BlockDevice for Overlay {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes { physical: SUBCLUSTER as u32, ..self.base.block_sizes() }
    }
}
