//! Content that lies among metadata: the bytes of small files, in memory.

use std::sync::Arc;

use blockdev::{
    ReadAt, Result,
    images::layer::{Layer, Place, Run},
};

/// Content of at most a few KiB that was read with the metadata; behind its bytes come zeros up to its size.
pub struct Inline {
    size: u64,
    len: u64,
    files: [Arc<dyn ReadAt>; 1],
}

impl Inline {
    /// `bytes`, as a content of `size` bytes.
    pub fn new(mut bytes: Vec<u8>, size: u64) -> Self {
        bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Self { size, len: bytes.len() as u64, files: [Arc::new(bytes)] }
    }
}

impl Layer for Inline {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, _limit: u64) -> Result<Run> {
        Ok(match self.len.checked_sub(offset) {
            Some(len @ 1..) => Run { len, place: Place::Stored { file: 0, offset } },
            _ => Run { len: self.size.saturating_sub(offset), place: Place::Zero },
        })
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }
}
