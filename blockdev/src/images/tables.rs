//! Tables of an image file (L2 tables, grain tables, allocation tables), read as they are needed.
//!
//! A hostile header may claim a table of terabytes. No table is ever held whole: pages of it are read on demand and
//! kept in a cache that is bounded in bytes, so the claim costs nothing.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};

use crate::{Error, ReadAt, Result};

/// Bytes read and kept at once.
const PAGE: u64 = 16 << 10;

/// Pages of the files of an image.
pub struct Tables {
    file: Arc<dyn ReadAt>,
    /// Files number 1 and up.
    more: Vec<Arc<dyn ReadAt>>,
    pages: Cache<(u32, u64), Arc<[u8]>, ByBytes>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<(u32, u64), Arc<[u8]>> for ByBytes {
    fn weight(&self, _: &(u32, u64), page: &Arc<[u8]>) -> u64 {
        page.len() as u64 + 64
    }
}

impl Tables {
    /// The tables in `file`, of which at most `bytes_max` bytes are kept.
    #[must_use]
    pub fn new(file: Arc<dyn ReadAt>, bytes_max: u64) -> Self {
        Self::of_files(file, Vec::new(), bytes_max)
    }

    /// The tables in several files, `file` being number 0, of which together at most `bytes_max` bytes are kept.
    #[must_use]
    pub fn of_files(file: Arc<dyn ReadAt>, more: Vec<Arc<dyn ReadAt>>, bytes_max: u64) -> Self {
        Self { file, more, pages: Cache::with_weighter(64, bytes_max.max(4 * PAGE), ByBytes) }
    }

    /// `N` bytes at `offset` of the file, of several the first.
    ///
    /// # Errors
    ///
    /// `Damaged` when the file ends before, and what reading it gives.
    pub fn bytes<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        self.bytes_of(0, offset)
    }

    /// `N` bytes at `offset` of file number `file`.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Self::bytes).
    pub fn bytes_of<const N: usize>(&self, file: u32, offset: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut done = 0;
        let ends = || self.ends(file, offset);
        while done < N {
            let at = offset.checked_add(done as u64).ok_or_else(ends)?;
            let page = self.page(file, at / PAGE)?;
            let from = page.get((at % PAGE) as usize..).filter(|p| !p.is_empty()).ok_or_else(ends)?;
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

    /// The file itself, of several the first.
    #[must_use]
    pub fn file(&self) -> &Arc<dyn ReadAt> {
        &self.file
    }

    fn number(&self, file: u32) -> Option<&Arc<dyn ReadAt>> {
        match file.checked_sub(1) {
            None => Some(&self.file),
            Some(more) => self.more.get(more as usize),
        }
    }

    fn page(&self, file: u32, number: u64) -> Result<Arc<[u8]>> {
        self.pages.get_or_insert_with(&(file, number), || {
            let mut page = vec![0; PAGE as usize];
            let n = self.number(file).map_or(Ok(0), |f| f.read_at(&mut page, number * PAGE))?;
            page.truncate(n);
            Ok(page.into())
        })
    }

    fn ends(&self, file: u32, offset: u64) -> Error {
        let size = self.number(file).map_or(0, ReadAt::size);
        Error::damaged(format!("a table lies at byte {offset}, and the image file ends at {size}: it was cut off"))
    }
}
