//! The first reading of a log: which transactions are complete, and which blocks are revoked.

use std::collections::HashMap;

use blockdev::{
    Error, ErrorKind, Result,
    fields::{be32, be64, slice},
};
use crc_fast::{CrcAlgorithm, Digest};

use super::{
    super::checksum,
    damaged,
    header::{Checksums, Header},
    log::{self, Block, Log},
};

/// Revocations that are kept: a bound for what a log can claim.
const REVOKED_MAX: usize = 1 << 20;

/// What the log has.
pub struct Scanned {
    /// Number of the transaction behind the last one to be replayed.
    pub end: u32,
    /// How many are to be replayed.
    pub transactions: u32,
    /// Whether the last one in the log is incomplete.
    pub is_cut: bool,
    /// By block, the last transaction that revoked it.
    revoked: HashMap<u64, u32>,
}

impl Scanned {
    /// Whether what the transaction `sequence` has for `block` is not to be replayed.
    pub fn is_revoked(&self, block: u64, sequence: u32) -> bool {
        self.revoked.get(&block).is_some_and(|by| !is_after(sequence, *by))
    }
}

/// Whether the transaction `a` is younger than `b`: numbers go around.
fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// Reads `log` up to its last complete transaction.
///
/// # Errors
///
/// When a transaction that was complete is damaged.
pub fn scan(log: &mut Log, header: &Header) -> Result<Scanned> {
    let mut found = Scanned { end: header.sequence, transactions: 0, is_cut: false, revoked: HashMap::new() };
    let (mut at, mut walked, len) = (header.start, 0, header.end - header.first);
    let (mut revoked, mut sum) = (Vec::new(), Sum::new());
    // The first block of the transaction whose checksum is wrong.
    let mut suspect = None;
    let mut last_time = 0;
    // Going round, the log would end where it began.
    while walked < len {
        let block = log.block(at, 1)?;
        let Some(kind) = log::kind(block, found.end) else { break };
        if kind != Block::Commit && !log::is_sound(header, block) {
            suspect = suspect.or(Some(at));
        }
        let mut step = 1;
        match kind {
            Block::Descriptor => {
                let count = log::tags(header, block).count() as u64;
                if header.checksums == Checksums::Transactions {
                    sum.add(block);
                    for n in 1..=count.min(len) {
                        sum.add(log.block(header.advance(at, n), count - n + 1)?);
                    }
                }
                step += count;
            }
            Block::Revocation => {
                revoked.extend(log::revoked(header, block));
                if revoked.len() + found.revoked.len() > REVOKED_MAX {
                    let message = format!("the journal revokes more than {REVOKED_MAX} blocks");
                    return Err(Error::new(ErrorKind::Limit, message));
                }
            }
            Block::Commit => {
                let time = be64(block, 48);
                let is_sound = suspect.is_none() && is_sound(header, block, &sum);
                if !is_sound && time < last_time {
                    // What an earlier round of the log left here.
                    break;
                }
                if !is_sound && header.is_async {
                    found.is_cut = true;
                    break;
                }
                if !is_sound {
                    return Err(damaged(suspect.unwrap_or(at), "has a wrong checksum"));
                }
                last_time = time;
                found.revoked.extend(revoked.drain(..).map(|block| (block, found.end)));
                found.end = found.end.wrapping_add(1);
                found.transactions += 1;
                sum = Sum::new();
            }
        }
        at = header.advance(at, step);
        walked += step;
    }
    Ok(found)
}

/// The CRC-32 of the descriptors of a transaction and their content: big-endian, without inversion at its end.
struct Sum(Digest);

impl Sum {
    fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Mpeg2))
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// Whether the commit `block` has the right checksum, that of its transaction being `sum`.
fn is_sound(header: &Header, block: &[u8], sum: &Sum) -> bool {
    /// Where checksums are, and the type and size of those of version 1.
    const SUMS: usize = 16;
    const CRC32: [u8; 2] = [1, 4];
    let stored = be32(block, SUMS);
    match header.checksums {
        Checksums::No => true,
        Checksums::Transactions => {
            // Who did not compute one left all three empty.
            let kind = slice(block, 12, 2);
            let is_there = kind == CRC32 && checksum::is_right(stored, sum.0.finalize() as u32);
            is_there || (kind == [0, 0] && stored == 0)
        }
        Checksums::Blocks16 | Checksums::Blocks32 => {
            let computed = header.seed.add_range(block, 0..SUMS).add(&[0; 4]);
            checksum::is_right(stored, computed.add_range(block, SUMS + 4..block.len()).value())
        }
    }
}
