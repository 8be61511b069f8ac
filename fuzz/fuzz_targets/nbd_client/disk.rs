//! A disk in memory, for the fuzz targets of servers of disks.

use std::ops::Range;

use blockdev::{BlockDevice, BlockSizes, Extent, ExtentKind, MappedRun, ReadAt, Result, WriteAt};

/// A disk that notices when it is asked for what it does not have. Every second 4 KiB is a hole.
pub struct Strict(pub u64);

impl Strict {
    fn check(&self, range: &Range<u64>) {
        assert!(range.start <= range.end && range.end <= self.0, "{range:?} of {}", self.0);
    }
}

impl ReadAt for Strict {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.check(&(offset..offset + buf.len() as u64));
        buf.fill(7);
        Ok(buf.len())
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let end = ((offset / 4096 + 1) * 4096).min(self.0);
        let kind = if offset / 4096 % 2 == 0 { ExtentKind::Data } else { ExtentKind::Hole };
        Ok((offset < self.0).then_some(Extent { range: offset..end, kind }))
    }

    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Strict {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

impl WriteAt for Strict {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check(&(offset..offset + buf.len() as u64));
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, _: bool) -> Result<()> {
        self.check(&range);
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.check(&range);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
