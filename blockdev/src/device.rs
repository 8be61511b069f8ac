//! Block devices: bytes in blocks of a known size, and the write side.
//!
//! Reading and writing are different types. A backup, an image file and a chain are a [`BlockDevice`]: there is no
//! method that could change them. Only what was opened for writing (an overlay, a replica, a restore target) is
//! also a [`WriteAt`], and a door that wants to write has to ask for one.

use std::ops::Range;

use crate::{ReadAt, Result};

/// The sizes that a disk presents to its reader, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockSizes {
    /// Addresses of the disk count blocks of this size: 512 or 4096.
    pub logical: u32,
    /// Writes of this size and alignment need no read before.
    pub physical: u32,
}

impl BlockSizes {
    /// 512 bytes, as nearly all disks in backups have.
    pub const CLASSIC: Self = Self { logical: 512, physical: 512 };
    /// 4096 bytes ("4Kn").
    pub const NATIVE_4K: Self = Self { logical: 4096, physical: 4096 };
}

/// A disk that can be read.
///
/// The contract is that of [`ReadAt`]: reads need no alignment, whatever the block size.
pub trait BlockDevice: ReadAt {
    /// The sizes of its blocks.
    fn block_sizes(&self) -> BlockSizes;
}

/// A disk that can be written as well.
///
/// # Contract
///
/// * Offsets and lengths need no alignment; a range that ends past [`size`](ReadAt::size) is an error and changes
///   nothing.
/// * When a call returns, every later read, by any thread, sees what it wrote. Two calls at once that overlap leave
///   each byte as one of them wrote it.
/// * A failed call may have written any part of its range and nothing else.
/// * After [`flush`](Self::flush) has returned, all that calls had written that returned before it was called survives
///   the end of this process and the loss of power. Without a flush nothing is promised.
pub trait WriteAt: BlockDevice {
    /// Write `buf` at `offset`.
    ///
    /// # Errors
    ///
    /// When the range is not within the size, when there is no room, and when the medium fails.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()>;

    /// Make `range` zeros. With `keep` the room stays allocated where the format can do that.
    ///
    /// # Errors
    ///
    /// As [`write_at`](Self::write_at).
    fn write_zeroes(&self, range: Range<u64>, keep: bool) -> Result<()>;

    /// Say that what is in `range` is no longer needed. It reads as zeros or as before.
    ///
    /// # Errors
    ///
    /// As [`write_at`](Self::write_at).
    fn discard(&self, range: Range<u64>) -> Result<()>;

    /// Make durable what was written.
    ///
    /// # Errors
    ///
    /// When the medium fails; what was written since the last flush may then be lost.
    fn flush(&self) -> Result<()>;
}
