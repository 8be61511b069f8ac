//! The read side: a fixed size and bytes at offsets, from any thread.

use crate::{Extent, ExtentKind, Result, origin::Origin};

/// Bytes of a fixed size that can be read at any offset by any number of threads at once.
///
/// # Contract
///
/// * Offsets and lengths need no alignment.
/// * A read that lies wholly or partly past [`size`](Self::size) is short, never an error: it fills what
///   exists and says how much. Within the size a read is never short.
/// * A failed read leaves the buffer in an unspecified state; a later read of other bytes may succeed.
/// * Two reads of the same bytes give the same bytes.
pub trait ReadAt: Send + Sync {
    /// Size in bytes; it never changes.
    fn size(&self) -> u64;

    /// Fill `buf` from `offset` on and return how many bytes were filled.
    ///
    /// # Errors
    ///
    /// When a byte of the range cannot be delivered as it was stored.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// The extent that holds `offset`, from `offset` on, or `None` at or past the end. Neighbouring extents
    /// may be of the same kind; the ranges of `Data` extents are exactly what is stored.
    ///
    /// # Errors
    ///
    /// When finding the extent needs bytes that cannot be read.
    fn extent_at(&self, offset: u64) -> Result<Option<Extent>>;

    /// The longest prefix of `offset..offset + len` that lies as it is in one file of the host, for
    /// zero-copy doors and for `preadv`. `None` where bytes have to be computed or checked first.
    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>>;

    /// Where the bytes from `offset` on come from: at most `limit` of them (not 0), all below the size. What computes
    /// its bytes leaves it at saying that nothing is known.
    ///
    /// # Errors
    ///
    /// When telling it needs bytes that cannot be read.
    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        let _ = offset;
        Ok(Origin::unknown(limit))
    }
}

/// Bytes that lie as they are in a file of the host.
#[derive(Debug)]
pub struct MappedRun<'a> {
    /// The file.
    pub file: &'a std::fs::File,
    /// Offset in that file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let n = buf.len().min(self.len() - start);
        buf[..n].copy_from_slice(&self[start..start + n]);
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok((offset < self.size()).then(|| Extent { range: offset..self.size(), kind: ExtentKind::Data }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}
