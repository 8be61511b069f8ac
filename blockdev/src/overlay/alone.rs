//! An overlay over nothing: a new disk in a qcow2 file, which belongs to QEMU once it is complete.
//!
//! Whoever writes it may not know yet how large the disk becomes. So it is made with room for more, and is told its size at
//! the end: the tables of an overlay are complete from the start, and an L1 table that is longer than the disk needs is
//! nothing special. Nothing is promised of it before that: there is no journal, and an unfinished file is to be removed.

use std::{path::Path, sync::Arc};

use super::{HostMedium, Options, Overlay};
use crate::{BlockDevice, BlockSizes, Error, Extent, ExtentKind, MappedRun, ReadAt, Result};

/// Where the size of the disk is in the header.
const SIZE_AT: u64 = 24;

/// What is below: zeros.
struct Nothing(u64);

impl ReadAt for Nothing {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = buf.len().min(usize::try_from(self.0.saturating_sub(offset)).unwrap_or(usize::MAX));
        buf.get_mut(..n).unwrap_or_default().fill(0);
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok((offset < self.0).then_some(Extent { range: offset..self.0, kind: ExtentKind::Hole }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Nothing {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

impl Overlay {
    /// Make the file `path`, which must not exist, a disk with room for `room` bytes, all zeros.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_alone(path: &Path, room: u64) -> Result<Self> {
        let medium = HostMedium::create(path)?;
        let options = Options::new("nothing");
        let made = Self::create_on(Box::new(medium), path.display().to_string(), Arc::new(Nothing(room)), &options);
        if made.is_err() {
            // It exists by our doing only, and holds nothing.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    /// End writing, and make it a disk of `size` bytes, rounded up to a sector. It is durable then.
    ///
    /// # Errors
    ///
    /// When there was no room for so many bytes, or the medium fails.
    pub fn finish_alone(mut self, size: u64) -> Result<()> {
        let size = size.next_multiple_of(512);
        if size > self.layout.size {
            return Err(Error::invalid(format!("{} has no room for a disk of {size} bytes", self.name)));
        }
        self.finish()?;
        let told = self.medium.write(&size.to_be_bytes(), SIZE_AT).and_then(|()| self.medium.sync());
        told.map_err(|e| self.failed("finish", e))
    }
}
