//! Where bytes come from, to tell without reading them that two ranges hold the same.
//!
//! Two restore points of a disk share most of their bytes: the same clusters of the same backup files. A device that
//! knows in which stored file its bytes lie says so ([`crate::ReadAt::origin_at`]); two ranges of
//! the same origin need not be compared.

use crate::{BlockDevice, BlockSizes, Extent, MappedRun, ReadAt, Result};

/// What is known of where bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// They are zeros that nobody stores.
    Zeros,
    /// They are those of a stored file, from `offset` on. Equal numbers mean equal content, in this process.
    Stored {
        /// The file.
        file: u64,
        /// The first byte in it.
        offset: u64,
    },
    /// Nothing is known.
    Unknown,
}

impl Source {
    /// The bytes from `skip` on of what unpacks from byte `offset` of `file`.
    #[must_use]
    pub const fn of_unpacked(file: u64, offset: u64, skip: u64) -> Self {
        let unit = file ^ 0x7061_636b_6564_2121 ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        Self::Stored { file: unit, offset: skip }
    }

    /// What is decrypted from byte `offset` on of `file`, by the key that `fingerprint` stands for; `at` is the place in
    /// what was encrypted, on which the result depends as well.
    #[must_use]
    pub const fn of_decrypted(file: u64, offset: u64, at: u64, fingerprint: u64) -> Self {
        let moved = offset.wrapping_sub(at).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        Self::Stored { file: file ^ fingerprint ^ moved, offset }
    }
}

/// Bytes of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// How many, never 0.
    pub len: u64,
    /// Where they come from.
    pub source: Source,
}

impl Origin {
    /// Of `len` bytes nothing is known.
    #[must_use]
    pub const fn unknown(len: u64) -> Self {
        Self { len, source: Source::Unknown }
    }

    /// The same, not longer than `limit`.
    #[must_use]
    pub fn limited(self, limit: u64) -> Self {
        Self { len: self.len.min(limit), ..self }
    }
}

/// A content that never changes, with a number that stands for it and for no other.
pub struct Identified<D> {
    content: D,
    file: u64,
}

impl<D: ReadAt> Identified<D> {
    /// `content`, for which `file` stands.
    pub const fn new(content: D, file: u64) -> Self {
        Self { content, file }
    }
}

impl<D: ReadAt> ReadAt for Identified<D> {
    fn size(&self) -> u64 {
        self.content.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.content.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.content.extent_at(offset)
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        self.content.map(offset, len)
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        Ok(Origin { len: limit, source: Source::Stored { file: self.file, offset } })
    }
}

impl<D: BlockDevice> BlockDevice for Identified<D> {
    fn block_sizes(&self) -> BlockSizes {
        self.content.block_sizes()
    }
}
