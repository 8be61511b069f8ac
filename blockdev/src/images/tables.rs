//! Tables of an image file (L2 tables, grain tables, allocation tables), read as they are needed.
//!
//! A hostile header may claim a table of terabytes. No table is ever held whole: pages of it are read on demand and
//! kept in a cache that is bounded in bytes, so the claim costs nothing.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};

use crate::{Error, ReadAt, Result};

/// Bytes read and kept at once.
const PAGE: u64 = 16 << 10;

/// Pages of one image file.
pub struct Tables {
    file: Arc<dyn ReadAt>,
    pages: Cache<u64, Arc<[u8]>, ByBytes>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<u64, Arc<[u8]>> for ByBytes {
    fn weight(&self, _: &u64, page: &Arc<[u8]>) -> u64 {
        page.len() as u64 + 64
    }
}

impl Tables {
    /// The tables in `file`, of which at most `bytes_max` bytes are kept.
    #[must_use]
    pub fn new(file: Arc<dyn ReadAt>, bytes_max: u64) -> Self {
        Self { file, pages: Cache::with_weighter(64, bytes_max.max(4 * PAGE), ByBytes) }
    }

    /// `N` bytes at `offset` of the file.
    ///
    /// # Errors
    ///
    /// `Damaged` when the file ends before, and what reading it gives.
    pub fn bytes<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut done = 0;
        while done < N {
            let at = offset.checked_add(done as u64).ok_or_else(|| self.ends(offset))?;
            let page = self.page(at / PAGE)?;
            let from = page.get((at % PAGE) as usize..).filter(|p| !p.is_empty()).ok_or_else(|| self.ends(offset))?;
            let n = from.len().min(N - done);
            bytes[done..done + n].copy_from_slice(&from[..n]);
            done += n;
        }
        Ok(bytes)
    }

    /// The big-endian `u64` at `offset`.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Self::bytes).
    pub fn be64(&self, offset: u64) -> Result<u64> {
        self.bytes(offset).map(u64::from_be_bytes)
    }

    /// The little-endian `u64` at `offset`.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Self::bytes).
    pub fn le64(&self, offset: u64) -> Result<u64> {
        self.bytes(offset).map(u64::from_le_bytes)
    }

    /// The big-endian `u32` at `offset`.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Self::bytes).
    pub fn be32(&self, offset: u64) -> Result<u32> {
        self.bytes(offset).map(u32::from_be_bytes)
    }

    /// The little-endian `u32` at `offset`.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Self::bytes).
    pub fn le32(&self, offset: u64) -> Result<u32> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    /// The file itself.
    #[must_use]
    pub fn file(&self) -> &Arc<dyn ReadAt> {
        &self.file
    }

    fn page(&self, number: u64) -> Result<Arc<[u8]>> {
        self.pages.get_or_insert_with(&number, || {
            let mut page = vec![0; PAGE as usize];
            let n = self.file.read_at(&mut page, number * PAGE)?;
            page.truncate(n);
            Ok(page.into())
        })
    }

    fn ends(&self, offset: u64) -> Error {
        Error::damaged(format!(
            "a table lies at byte {offset}, and the image file ends at {}: it was cut off",
            self.file.size()
        ))
    }
}
