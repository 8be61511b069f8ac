//! The superblock of a journal.

use blockdev::{
    Error, Result,
    fields::{be32, le16, le32, slice},
};

use super::{
    super::checksum::{self, Crc32c},
    damaged,
    log::{Log, MAGIC},
};

/// Bytes of it, and where its own checksum is.
const LEN: usize = 1024;
const CHECKSUM: usize = 252;
/// The types of block that a superblock of the first and of the second version is.
const VERSION_1: u32 = 3;
const VERSION_2: u32 = 4;

/// The compatible feature: commits have a CRC-32 of their transaction.
const CHECKSUMS: u32 = 0x1;
/// What a reader must know.
const BIT64: u32 = 0x2;
const ASYNC_COMMIT: u32 = 0x4;
const CHECKSUMS_2: u32 = 0x8;
const CHECKSUMS_3: u32 = 0x10;
const FAST_COMMIT: u32 = 0x20;
const KNOWN: u32 = 0x3f;

/// Blocks for fast commits where the superblock does not say how many.
const FAST_BLOCKS: u32 = 256;

/// Which checksums a journal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// None.
    No,
    /// A CRC-32 over each transaction, in its commit.
    Transactions,
    /// A CRC-32C for each block, of which descriptors have 16 bits.
    Blocks16,
    /// The same with all 32 bits.
    Blocks32,
}

/// What the superblock of a journal says.
#[derive(Debug, Clone)]
pub struct Header {
    /// The first block of the log, which goes around.
    pub first: u64,
    /// The block behind its last.
    pub end: u64,
    /// Where the oldest transaction begins; 0 when there is none.
    pub start: u64,
    /// Its number.
    pub sequence: u32,
    /// Checksums.
    pub checksums: Checksums,
    /// Where they start.
    pub seed: Crc32c,
    /// Whether numbers of blocks have 64 bits.
    pub is_64bit: bool,
    /// Whether a commit may be written before its transaction: then the last one may be cut short.
    pub is_async: bool,
    has_fast_commits: bool,
}

impl Header {
    /// That in `bytes`, of a journal of `blocks` blocks of `block_size` bytes.
    ///
    /// # Errors
    ///
    /// When it is damaged or has features that cannot be read.
    pub fn parse(bytes: &[u8], block_size: u32, blocks: u64) -> Result<Self> {
        let version = be32(bytes, 4);
        if be32(bytes, 0) != MAGIC || !matches!(version, VERSION_1 | VERSION_2) {
            return Err(damaged(0, "is not its superblock"));
        }
        let feature = |at| if version == VERSION_2 { be32(bytes, at) } else { 0 };
        let (compatible, incompatible) = (feature(36), feature(40));
        if incompatible & !KNOWN != 0 {
            return Err(Error::unsupported(format!("the journal has unknown features ({:#x})", incompatible & !KNOWN)));
        }
        let checksums = if incompatible & CHECKSUMS_3 != 0 {
            Checksums::Blocks32
        } else if incompatible & CHECKSUMS_2 != 0 {
            Checksums::Blocks16
        } else if compatible & CHECKSUMS != 0 {
            Checksums::Transactions
        } else {
            Checksums::No
        };
        if matches!(checksums, Checksums::Blocks16 | Checksums::Blocks32) {
            let sum = Crc32c::START.add_range(bytes, 0..CHECKSUM).add(&[0; 4]).add_range(bytes, CHECKSUM + 4..LEN);
            checksum::expect(be32(bytes, CHECKSUM), sum.value(), "the journal's superblock")?;
        }
        let (max, has_fast_commits) = (be32(bytes, 16), incompatible & FAST_COMMIT != 0);
        let fast = match (has_fast_commits, be32(bytes, 84)) {
            (false, _) => 0,
            (true, 0) => FAST_BLOCKS,
            (true, blocks) => blocks,
        };
        let end = u64::from(max.saturating_sub(fast));
        let (first, start) = (u64::from(be32(bytes, 20)), u64::from(be32(bytes, 28)));
        let is_sound = be32(bytes, 12) == block_size && u64::from(max) <= blocks && (1..end).contains(&first);
        if !is_sound || (start != 0 && !(first..end).contains(&start)) {
            return Err(damaged(0, "tells of a log that is not in it"));
        }
        Ok(Self {
            first,
            end,
            start,
            sequence: be32(bytes, 24),
            checksums,
            seed: Crc32c::START.add(slice(bytes, 48, 16)),
            is_64bit: incompatible & BIT64 != 0,
            is_async: incompatible & ASYNC_COMMIT != 0,
            has_fast_commits,
        })
    }

    /// Whether each block has a checksum.
    pub const fn has_block_checksums(&self) -> bool {
        matches!(self.checksums, Checksums::Blocks16 | Checksums::Blocks32)
    }

    /// The block of the log that is `by` blocks behind `at`.
    pub fn advance(&self, at: u64, by: u64) -> u64 {
        let len = self.end - self.first;
        self.first + (at - self.first + by % len) % len
    }

    /// Whether there are fast commits for the transaction `sequence`, behind the last one in the log. They are behind the
    /// log, and begin with a head that names the transaction ("Fast Commits").
    ///
    /// # Errors
    ///
    /// When the place cannot be read.
    pub fn has_fast_commits(&self, log: &mut Log, sequence: u32) -> Result<bool> {
        const HEAD: u16 = 9;
        if !self.has_fast_commits {
            return Ok(false);
        }
        let block = log.block(self.end, 1)?;
        Ok(le16(block, 0) == HEAD && le32(block, 8) == sequence)
    }
}
