//! Small reads of a volume for a reader that hops from header to header.
//!
//! Headers of small files stand close together, those of a disk image 64 KiB apart. The window reads a few
//! kilobytes where the last hop was short and barely more than asked for where it was long, so that indexing a
//! big file does not read its data.

use blockdev::Result;

use crate::medium::{Address, Medium};

/// What is read where headers are dense. It grows while every byte of it is used.
const DENSE_MIN: usize = 4 << 10;
const DENSE_MAX: usize = 128 << 10;
/// What is read after a long hop: a block header, a continuation header, and a little for what follows.
const SPARSE: usize = 128;
/// A hop beyond this many bytes behind the window is a long one.
const LONG_HOP: u64 = 16 << 10;

/// A buffered view of a volume.
#[derive(Debug)]
pub struct Window<'a> {
    medium: &'a Medium,
    base: Address,
    buf: Vec<u8>,
    dense: usize,
    /// Bytes read so far.
    pub bytes_read: u64,
}

impl<'a> Window<'a> {
    /// A view of `medium`.
    #[must_use]
    pub const fn new(medium: &'a Medium) -> Self {
        Self { medium, base: 0, buf: Vec::new(), dense: DENSE_MIN, bytes_read: 0 }
    }

    /// Up to `len` bytes at `address`; fewer only where the medium ends.
    ///
    /// # Errors
    ///
    /// When the medium cannot be read.
    pub fn get(&mut self, address: Address, len: usize) -> Result<&[u8]> {
        let inside = address.checked_sub(self.base).and_then(|o| usize::try_from(o).ok());
        if let Some(start) = inside
            && start.checked_add(len).is_some_and(|end| end <= self.buf.len())
        {
            return Ok(&self.buf[start..start + len]);
        }
        let end = self.base + self.buf.len() as u64;
        let size = if address >= end.saturating_add(LONG_HOP) || address < self.base {
            self.dense = DENSE_MIN;
            SPARSE
        } else if address <= end {
            self.dense = (self.dense * 2).min(DENSE_MAX);
            self.dense
        } else {
            DENSE_MIN
        };
        self.buf.resize(size.max(len), 0);
        let n = self.medium.read_at(&mut self.buf, address)?;
        self.buf.truncate(n);
        self.base = address;
        self.bytes_read += n as u64;
        Ok(&self.buf[..n.min(len)])
    }
}
