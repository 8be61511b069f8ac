//! A shared device is a device: so that layers can be put on an `Arc<dyn BlockDevice>`.

use std::{ops::Range, sync::Arc};

use crate::{BlockDevice, BlockSizes, Extent, MappedRun, ReadAt, Result, WriteAt, origin::Origin};

impl<D: ReadAt + ?Sized> ReadAt for Arc<D> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        (**self).read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        (**self).extent_at(offset)
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        (**self).map(offset, len)
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        (**self).origin_at(offset, limit)
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for Arc<D> {
    fn block_sizes(&self) -> BlockSizes {
        (**self).block_sizes()
    }
}

impl<D: WriteAt + ?Sized> WriteAt for Arc<D> {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        (**self).write_at(buf, offset)
    }

    fn write_zeroes(&self, range: Range<u64>, keep: bool) -> Result<()> {
        (**self).write_zeroes(range, keep)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        (**self).discard(range)
    }

    fn flush(&self) -> Result<()> {
        (**self).flush()
    }
}
