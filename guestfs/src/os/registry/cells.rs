//! The bytes of cells.

use std::sync::Arc;

use blockdev::{
    BlockDevice, Error, ErrorKind, Result,
    fields::{le32, slice},
};

use super::header::{BINS, Header};
use crate::blocks::Blocks;

/// Bytes of one page of the hive: what is read and kept at once. Bins are made of pages.
const PAGE: u64 = 4096;

/// Bytes of pages that are kept.
const KEPT: u64 = 4 << 20;

/// The largest cell that is read, in bytes: the data of a value without segments can have so much.
const CELL_MAX: usize = 1 << 20;

/// An offset that means nothing.
pub const NONE: u32 = u32::MAX;

/// The cells of a hive.
pub struct Cells {
    pages: Blocks,
    /// Where the bins end, in bytes from the first.
    end: u32,
    /// Minor version of the format.
    pub minor: u32,
}

impl Cells {
    pub fn new(device: Arc<dyn BlockDevice>, header: &Header) -> Self {
        let there = u32::try_from(device.size().saturating_sub(BINS)).unwrap_or(u32::MAX);
        // A header that is not sound may be wrong about its size.
        let end = if header.is_sound { header.bins.min(there) } else { there };
        Self { pages: Blocks::new(device, KEPT), end, minor: header.minor }
    }

    /// The first `max` bytes of the cell at `offset`, without its length, or fewer when it is shorter.
    ///
    /// # Errors
    ///
    /// When there is no cell in use.
    pub fn get(&self, offset: u32, max: usize) -> Result<Vec<u8>> {
        let bad = |what: &str| Error::damaged(format!("the registry cell at {offset:#x} {what}"));
        if !offset.is_multiple_of(8) || offset >= self.end {
            return Err(bad("lies outside of the hive"));
        }
        // The length is negative where the cell is in use.
        let len = le32(&self.read(offset, 4)?, 0).cast_signed();
        let len = len.checked_neg().and_then(|len| u32::try_from(len).ok()).ok_or_else(|| bad("is not in use"))?;
        if len < 8 || len > self.end - offset {
            return Err(bad("has an impossible length"));
        }
        self.read(offset.saturating_add(4), usize::try_from(len - 4).unwrap_or(usize::MAX).min(max))
    }

    /// The `len` bytes at the beginning of the cell at `offset`.
    ///
    /// # Errors
    ///
    /// When it is not in use, or shorter.
    pub fn exactly(&self, offset: u32, len: usize) -> Result<Vec<u8>> {
        let bytes = self.get(offset, len)?;
        if bytes.len() < len {
            return Err(Error::damaged(format!("the registry cell at {offset:#x} ends before its {len} bytes")));
        }
        Ok(bytes)
    }

    fn read(&self, offset: u32, len: usize) -> Result<Vec<u8>> {
        if len > CELL_MAX {
            return Err(Error::new(ErrorKind::Limit, format!("a registry cell of {len} bytes at {offset:#x}")));
        }
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = BINS + u64::from(offset) + bytes.len() as u64;
            let start = at / PAGE * PAGE;
            let page = PAGE.min(self.pages.device().size().saturating_sub(start));
            let page = self.pages.get(start, page as usize, |_| Ok(()))?;
            let part = slice(&page, (at - start) as usize, len - bytes.len());
            if part.is_empty() {
                return Err(Error::damaged(format!("the registry hive ends before byte {at}")));
            }
            bytes.extend_from_slice(part);
        }
        Ok(bytes)
    }
}
