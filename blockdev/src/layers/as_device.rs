//! Readable bytes as a device: whatever has bytes, with blocks of a given size.

use crate::{BlockDevice, BlockSizes, Extent, MappedRun, ReadAt, Result, origin::Origin};

/// Bytes (a file, memory) as a device.
#[derive(Debug, Clone)]
pub struct AsDevice<T> {
    bytes: T,
    sizes: BlockSizes,
}

impl<T: ReadAt> AsDevice<T> {
    /// `bytes`, in blocks of `sizes`.
    pub const fn new(bytes: T, sizes: BlockSizes) -> Self {
        Self { bytes, sizes }
    }
}

impl<T: ReadAt> ReadAt for AsDevice<T> {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.bytes.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.bytes.extent_at(offset)
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        self.bytes.map(offset, len)
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        self.bytes.origin_at(offset, limit)
    }
}

impl<T: ReadAt> BlockDevice for AsDevice<T> {
    fn block_sizes(&self) -> BlockSizes {
        self.sizes
    }
}
