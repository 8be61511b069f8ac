//! The second reading of a log: what is in the place of which block.

use std::collections::HashSet;

use blockdev::{Result, fields::slice};

use super::{
    damaged,
    header::Header,
    log::{self, Block, ESCAPED, Log, MAGIC},
    scan::Scanned,
};
use crate::patched::{Patch, Patches};

/// Blocks that a log may change: with blocks of 4 KiB, those of a log of 4 GiB.
const BLOCKS_MAX: usize = 1 << 20;
/// Bytes of blocks that are kept in memory, since they are not in the log as they should be.
const ESCAPED_MAX: usize = 16 << 20;

/// The blocks of a log.
pub struct Replay {
    /// What is in the place of others.
    pub blocks: Patches,
    /// Those of them that are damaged.
    pub lost: HashSet<u64>,
}

/// What the complete transactions in `log` put in the place of which block.
///
/// # Errors
///
/// When the log cannot be read, or changes more blocks than can be kept.
pub fn replay(log: &mut Log, header: &Header, scanned: &Scanned) -> Result<Replay> {
    let mut replay = Replay { blocks: Patches::new(log.block_size(), BLOCKS_MAX), lost: HashSet::new() };
    let mut escaped = 0;
    let (mut at, mut sequence) = (header.start, header.sequence);
    // The first reading came to the end of the log within one round.
    while sequence != scanned.end {
        let block = log.block(at, 1)?;
        match log::kind(block, sequence) {
            Some(Block::Descriptor) => {
                let tags: Vec<_> = log::tags(header, block).collect();
                for (n, tag) in tags.iter().enumerate() {
                    at = header.advance(at, 1);
                    if scanned.is_revoked(tag.target, sequence) {
                        continue;
                    }
                    if !log.has_target(tag.target) {
                        return Err(damaged(at, &format!("is to go to block {}, behind the volume's end", tag.target)));
                    }
                    let is_escaped = tag.flags & ESCAPED != 0;
                    let patch = if header.has_block_checksums() || is_escaped {
                        let content = log.block(at, (tags.len() - n) as u64)?;
                        match log::is_content(header, tag, sequence, content) {
                            false => Patch::Lost,
                            true if is_escaped => {
                                escaped += content.len();
                                Patch::Bytes([&MAGIC.to_be_bytes(), slice(content, 4, content.len())].concat())
                            }
                            true => Patch::At(log.place(at)?),
                        }
                    } else {
                        Patch::At(log.place(at)?)
                    };
                    if escaped > ESCAPED_MAX {
                        return Err(damaged(at, "is one of too many that look like the journal's own"));
                    }
                    match patch {
                        Patch::Lost => replay.lost.insert(tag.target),
                        _ => replay.lost.remove(&tag.target),
                    };
                    replay.blocks.put(tag.target, patch)?;
                }
            }
            Some(Block::Revocation) => {}
            Some(Block::Commit) => sequence = sequence.wrapping_add(1),
            None => return Err(damaged(at, "changed between two readings")),
        }
        at = header.advance(at, 1);
    }
    Ok(replay)
}
