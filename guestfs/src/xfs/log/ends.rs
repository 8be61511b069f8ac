//! Where the log begins and ends.
//!
//! The ring is written round and round. Its end, the *head*, is where the cycle falls by one; its beginning, the *tail*,
//! is what the last whole record says. Several records are on their way to the disk at once, so that before the head
//! there may be holes, and behind a hole nothing counts.

use blockdev::{Error, ReadAt, Result};

use super::{
    physical::{BLOCK, Physical, cycle_of},
    record::{BLOCKS_MAX, MAGIC, Record},
};
use crate::xfs::superblock::Superblock;

/// Records that are written at once.
const AT_ONCE: usize = 8;

/// Blocks in which there may be holes.
const HOLES: u64 = AT_ONCE as u64 * BLOCKS_MAX;

/// Blocks that are read at once to find a header.
const STRIDE: u64 = 64;

/// The state of a log.
pub enum State {
    /// All is in its place.
    Clean,
    /// This part has to be replayed.
    Dirty(Active),
}

/// The part of the log that has to be replayed.
pub struct Active {
    /// The first block.
    pub tail: u64,
    /// Blocks.
    pub blocks: u64,
}

/// The state of `log`.
///
/// # Errors
///
/// When no whole record can be found, or it contradicts the superblock.
pub fn state(sb: &Superblock, log: &Physical<'_, impl ReadAt + ?Sized>) -> Result<State> {
    let (first, last) = (log.cycle(0)?, log.cycle(log.blocks - 1)?);
    if first == 0 {
        // mkfs.xfs wrote zeros, and nobody anything.
        return Ok(State::Clean);
    }
    let boundary = if first == last { log.blocks } else { fall(log, last)? };
    // The usual case needs no more than the last record.
    if let Ok(newest) = before(log, boundary).and_then(|block| Record::at(sb, log, block))
        && log.distance(newest.block + newest.blocks(), boundary) == 0
        && newest.data(log).is_ok_and(|data| newest.is_unmount(&data))
    {
        return Ok(State::Clean);
    }
    let head = first_hole(log, boundary, first, last)?;
    let newest = newest_sound(sb, log, head)?;
    if newest.is_unmount(&newest.data(log)?) {
        return Ok(State::Clean);
    }
    let (tail, block) = (newest.tail & u64::from(u32::MAX), newest.block);
    let cycle = newest.lsn >> 32;
    if newest.tail >> 32 != if tail <= block { cycle } else { cycle.wrapping_sub(1) } {
        return Err(Error::damaged("its beginning is not where its end says"));
    }
    // The superblock's last change went through the log.
    let end = block + newest.blocks();
    let end_lsn = if end < log.blocks { cycle << 32 | end } else { (cycle + 1) << 32 | (end - log.blocks) };
    if sb.lsn != u64::MAX && sb.lsn > end_lsn {
        return Err(Error::damaged("it ends before the last change of the superblock"));
    }
    let blocks = match log.distance(tail, end % log.blocks) {
        0 => log.blocks,
        blocks => blocks,
    };
    Ok(State::Dirty(Active { tail, blocks }))
}

/// The first block with the cycle `last`, that of the last one: by halving, since cycles only fall.
fn fall(log: &Physical<'_, impl ReadAt + ?Sized>, last: u32) -> Result<u64> {
    let (mut low, mut high) = (0, log.blocks - 1);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if log.cycle(middle)? == last { high = middle } else { low = middle }
    }
    Ok(high)
}

/// The first block before `boundary` that was not written: it has the cycle before that of its neighbours.
fn first_hole(log: &Physical<'_, impl ReadAt + ?Sized>, boundary: u64, first: u32, last: u32) -> Result<u64> {
    let window = HOLES.min(log.blocks);
    let start = boundary + log.blocks - window;
    let bytes = log.read(start, window as usize)?;
    for (n, block) in (0..).zip(bytes.chunks(BLOCK)) {
        let at = (start + n) % log.blocks;
        // What lies behind the boundary is from the round before.
        let expected = if at < boundary { first } else { last };
        if expected != 0 && cycle_of(block) == expected.wrapping_sub(1) {
            return Ok(at);
        }
    }
    Ok(boundary)
}

/// The last of the records before `head` that is whole, as are those shortly before it.
fn newest_sound(sb: &Superblock, log: &Physical<'_, impl ReadAt + ?Sized>, head: u64) -> Result<Record> {
    let mut records = Vec::new();
    let mut end = head;
    // Back over a part of a record, and over as many as may be harmed.
    for _ in 0..2 * AT_ONCE {
        let Ok(block) = before(log, end) else { break };
        match Record::at(sb, log, block) {
            Ok(record) if log.distance(record.block + record.blocks(), end) == 0 => records.push(record),
            // Nothing behind it can be believed.
            _ => records.clear(),
        }
        end = block;
        if records.len() == AT_ONCE || records.first().is_some_and(|newest| newest.tail & 0xffff_ffff == block) {
            break;
        }
    }
    let mut newest = None;
    for record in records.into_iter().rev() {
        if record.data(log).is_err() {
            break;
        }
        newest = Some(record);
    }
    newest.ok_or_else(|| Error::damaged("it has no whole record at its end"))
}

/// Where the last record before block `end` begins.
fn before(log: &Physical<'_, impl ReadAt + ?Sized>, end: u64) -> Result<u64> {
    let mut searched = 0;
    while searched < 2 * BLOCKS_MAX {
        let stride = STRIDE.min(log.blocks);
        searched += stride;
        let start = (end + log.blocks * 2 - searched % log.blocks) % log.blocks;
        let bytes = log.read(start, stride as usize)?;
        let header = bytes.chunks(BLOCK).rposition(|block| block.starts_with(&MAGIC.to_be_bytes()));
        if let Some(n) = header {
            return Ok((start + n as u64) % log.blocks);
        }
    }
    Err(Error::damaged("no record before its end"))
}
