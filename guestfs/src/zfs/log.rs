//! Intent logs: what was written synchronously, as a chain of blocks, until the transaction group is complete that has it
//! too. They are not replayed; it is only found out whether there is something that would have to be.

use blockdev::{Error, Result};

use super::{
    block_pointer::{BlockPointer, SIZE},
    checksum::Verifier,
    order::Order,
    pool::Pool,
};

// Checksum functions that tell the two forms of a block apart: the link at its end, or at its start with the number of
// bytes that are used, which are rounded up.
const LINK_AT_END: u8 = 5;
const LINK_AT_START: u8 = 9;
const ROUNDED_TO: u64 = 4096;

/// A link: 8 bytes free, the pointer to the next block, the number of bytes that are used, the checksum.
const NEXT: usize = 8;
const USED: usize = NEXT + SIZE;
const CHECKSUM: usize = USED + 8;
const LINK: usize = CHECKSUM + 40;

/// Bytes with which a record begins: type, length, transaction group, sequence.
const RECORD: usize = 32;

/// Blocks of a log that are looked at: what is not complete begins near the start.
const BLOCKS_MAX: usize = 64;

/// Whether the log at `pointer` has something that is not in transaction group `group`.
///
/// # Errors
///
/// When its devices cannot be read.
pub fn has_more(pool: &Pool, mut pointer: BlockPointer, group: u64) -> Result<bool> {
    for _ in 0..BLOCKS_MAX {
        // A log ends where a block is not, or not yet, of it.
        let Some(block) = pool.log_block(&pointer)? else { break };
        let mut at = if block.link_at_start { LINK } else { 0 };
        let end = if block.link_at_start { block.used } else { block.used.min(block.bytes.len().saturating_sub(LINK)) };
        while at + RECORD <= end {
            let field = |n| block.order.u64(&block.bytes, at + n);
            let len = usize::try_from(field(8)).unwrap_or(usize::MAX);
            if len < RECORD {
                break;
            }
            if field(16) > group {
                return Ok(true);
            }
            at = at.saturating_add(len);
        }
        pointer = block.next;
    }
    Ok(false)
}

/// A block of a log.
pub struct LogBlock {
    bytes: Vec<u8>,
    order: Order,
    link_at_start: bool,
    /// Bytes up to where there are records.
    used: usize,
    next: BlockPointer,
}

/// Where the checksum of the block that `pointer` points to is, once `block`, which is the start of it, was read; how many
/// bytes it covers; and what there was before it.
///
/// # Errors
///
/// `Damaged` when it is no block of a log.
pub fn checked(pointer: &BlockPointer, block: &[u8]) -> Result<(usize, Verifier)> {
    let covered = match pointer.checksum_kind() {
        LINK_AT_END => block.len(),
        LINK_AT_START => {
            let used = [Order::Little, Order::Big].map(|order| order.u64(block, USED)).into_iter().min().unwrap_or(0);
            usize::try_from(used.div_ceil(ROUNDED_TO).saturating_mul(ROUNDED_TO)).unwrap_or(usize::MAX).min(block.len())
        }
        _ => return Err(Error::damaged("an intent log is something else")),
    };
    let at = if pointer.checksum_kind() == LINK_AT_START { CHECKSUM } else { covered.saturating_sub(LINK) + CHECKSUM };
    Ok((covered, Verifier::Log(pointer.checksum(), at)))
}

impl LogBlock {
    /// The block that `pointer` points to, whose sound bytes `bytes` are in `order`.
    pub fn new(pointer: &BlockPointer, bytes: Vec<u8>, order: Order) -> Self {
        let link_at_start = pointer.checksum_kind() == LINK_AT_START;
        let link = if link_at_start { 0 } else { bytes.len().saturating_sub(LINK) };
        let used = usize::try_from(order.u64(&bytes, link + USED)).unwrap_or(usize::MAX).min(bytes.len());
        let next = BlockPointer::parse(&bytes, link + NEXT, order);
        Self { bytes, order, link_at_start, used, next }
    }
}
