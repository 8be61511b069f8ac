//! The log as it lies on the device: a ring of blocks of 512 bytes, each stamped with its cycle.

use blockdev::{Error, ReadAt, Result, fields::be32};

use super::record::MAGIC;
use crate::xfs::superblock::Superblock;

/// Bytes of a block of the log.
pub const BLOCK: usize = 512;

/// A log.
pub struct Physical<'a, D: ?Sized> {
    device: &'a D,
    start: u64,
    /// Blocks in the ring.
    pub blocks: u64,
}

impl<'a, D: ReadAt + ?Sized> Physical<'a, D> {
    /// That of the volume `sb` on `device`.
    ///
    /// # Errors
    ///
    /// When it lies outside of the volume.
    pub fn new(sb: &Superblock, device: &'a D) -> Result<Self> {
        let len = u64::from(sb.log_blocks);
        let start = sb.extent(sb.log_start, len)?;
        let blocks = (len << sb.block_log) / BLOCK as u64;
        // A block number has 32 bits in a sequence number.
        if blocks == 0 || blocks > u64::from(u32::MAX >> 1) {
            return Err(Error::damaged(format!("it has {blocks} blocks")));
        }
        Ok(Self { device, start, blocks })
    }

    /// `count` blocks (bounded by the caller) from block `first` on, going on at the ring's start.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or are more than there are.
    pub fn read(&self, first: u64, count: usize) -> Result<Vec<u8>> {
        if count as u64 > self.blocks {
            return Err(Error::damaged(format!("{count} blocks of its {}", self.blocks)));
        }
        let first = first % self.blocks;
        let mut bytes = vec![0; count * BLOCK];
        let before_end = usize::try_from(self.blocks - first).unwrap_or(usize::MAX).min(count);
        let (head, tail) = bytes.split_at_mut(before_end * BLOCK);
        for (part, block) in [(head, first), (tail, 0)] {
            if self.device.read_at(part, self.start + block * BLOCK as u64)? < part.len() {
                return Err(Error::damaged("the volume ends before its log"));
            }
        }
        Ok(bytes)
    }

    /// The cycle of block `block`.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn cycle(&self, block: u64) -> Result<u32> {
        self.read(block, 1).map(|bytes| cycle_of(&bytes))
    }

    /// How many blocks there are from `from` on up to `to`; none when they are the same.
    pub const fn distance(&self, from: u64, to: u64) -> u64 {
        (to + self.blocks - from % self.blocks) % self.blocks
    }
}

/// The cycle that `block` is stamped with: its first four bytes, or the four after the magic number of a record.
pub fn cycle_of(block: &[u8]) -> u32 {
    match be32(block, 0) {
        MAGIC => be32(block, 4),
        cycle => cycle,
    }
}
