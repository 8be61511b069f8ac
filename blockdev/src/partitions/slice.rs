//! A part of a device as a device.

use std::sync::Arc;

use crate::{BlockDevice, BlockSizes, Extent, MappedRun, ReadAt, Result};

/// `size` bytes of a device from `start` on.
pub struct Slice {
    device: Arc<dyn BlockDevice>,
    start: u64,
    size: u64,
}

impl Slice {
    /// The part of `device` that begins at `start`, at most `size` bytes of it.
    pub fn new(device: Arc<dyn BlockDevice>, start: u64, size: u64) -> Self {
        let start = start.min(device.size());
        let size = size.min(device.size() - start);
        Self { device, start, size }
    }
}

impl ReadAt for Slice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        self.device.read_at(buf.get_mut(..wanted).unwrap_or_default(), self.start + offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        let Some(Extent { range, kind }) = self.device.extent_at(self.start + offset)? else { return Ok(None) };
        let end = range.end.saturating_sub(self.start).min(self.size);
        Ok(Some(Extent { range: offset..end, kind }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        let len = len.min(self.size.checked_sub(offset)?);
        if len == 0 { None } else { self.device.map(self.start + offset, len) }
    }
}

impl BlockDevice for Slice {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}
