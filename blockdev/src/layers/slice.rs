//! A range of a device as a device: a partition, an extent.

use std::ops::Range;

use super::{checked, range_of, within};
use crate::{BlockDevice, BlockSizes, Error, Extent, MappedRun, ReadAt, Result, WriteAt, origin::Origin};

/// The bytes `range` of a device.
#[derive(Debug, Clone)]
pub struct Slice<D> {
    device: D,
    start: u64,
    size: u64,
}

impl<D: ReadAt> Slice<D> {
    /// `range` of `device`.
    ///
    /// # Errors
    ///
    /// `Invalid` when it is not all within the device.
    pub fn new(device: D, range: Range<u64>) -> Result<Self> {
        let range = checked(range, device.size())?;
        Ok(Self { device, start: range.start, size: range.end - range.start })
    }

    /// `range` as the device below counts.
    fn below(&self, range: Range<u64>) -> Result<Range<u64>> {
        let range = checked(range, self.size)?;
        Ok(self.start + range.start..self.start + range.end)
    }
}

impl<D: ReadAt> ReadAt for Slice<D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = within(buf.len(), offset, self.size);
        if n == 0 {
            return Ok(0);
        }
        let buf = buf.get_mut(..n).unwrap_or_default();
        match self.device.read_at(buf, self.start + offset)? {
            read if read == n => Ok(n),
            read => Err(Error::damaged(format!("the device ends {} bytes before its size", n.abs_diff(read)))),
        }
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        let extent = self.device.extent_at(self.start + offset)?;
        Ok(extent.map(|e| Extent { range: offset..e.range.end.saturating_sub(self.start).min(self.size), ..e }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        let len = len.min(self.size.checked_sub(offset)?);
        if len == 0 { None } else { self.device.map(self.start + offset, len) }
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        self.device.origin_at(self.start.saturating_add(offset), limit)
    }
}

impl<D: BlockDevice> BlockDevice for Slice<D> {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}

impl<D: WriteAt> WriteAt for Slice<D> {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let range = self.below(range_of(offset, buf.len()))?;
        self.device.write_at(buf, range.start)
    }

    fn write_zeroes(&self, range: Range<u64>, keep: bool) -> Result<()> {
        self.device.write_zeroes(self.below(range)?, keep)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.device.discard(self.below(range)?)
    }

    fn flush(&self) -> Result<()> {
        self.device.flush()
    }
}
