//! The log: what a volume that was copied in use has there and not yet in its places.
//!
//! A kernel writes the log first and metadata later, so a disk that was copied while its guest ran is whole only after
//! the log was replayed. The backup cannot be changed; the replay puts what it would write into memory, over the device.
//!
//! * `physical`: the log as a ring of blocks of 512 bytes; `record`: what is written to it at once;
//! * `ends`: where it begins and ends, and whether the volume was unmounted;
//! * `transactions`: records taken apart into the transactions that they have;
//! * `replay`: transactions put in their places; `inode`: an inode as the log has it.
//!
//! Sequence numbers (LSN) have the *cycle*, how often the ring was begun, in the high 32 bits, and the block in the low
//! ones. ("Journaling Log".)

mod ends;
mod inode;
mod physical;
mod record;
mod replay;
mod transactions;

use std::sync::Arc;

use blockdev::{BlockDevice, Error, Result};

use self::{
    ends::State,
    physical::Physical,
    replay::{Cancelled, Replay},
};
use super::superblock::Superblock;
use crate::patched::Patched;

/// Known bits of `sb_features_log_incompat`: attributes that are changed by intents, which say no more than the blocks.
const INCOMPAT_KNOWN: u32 = 0x1;

/// A device after the replay of its log.
pub struct Replayed {
    /// The device, under what the log puts in its place.
    pub device: Arc<dyn BlockDevice>,
    /// Whether there is any such thing.
    pub changed: bool,
    /// Whether the volume was unmounted.
    pub clean: bool,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// `device`, whose superblock is `sb`, after the replay of its log. A log that cannot be replayed changes nothing: the
/// volume is then read as it is, as `mount -o norecovery` does, and a note says so.
pub fn replayed(sb: &Superblock, device: Arc<dyn BlockDevice>) -> Replayed {
    match replay(sb, &device) {
        Ok(None) => Replayed { device, changed: false, clean: true, notes: Vec::new() },
        Ok(Some((patched, notes))) => Replayed { device: Arc::new(patched), changed: true, clean: false, notes },
        Err(e) => {
            let note = format!("the log was not replayed, and changes that are only there are not shown: {e}");
            Replayed { device, changed: false, clean: false, notes: vec![note] }
        }
    }
}

/// What the log puts in the place of blocks of `device`; `None` when the volume was unmounted.
fn replay(sb: &Superblock, device: &Arc<dyn BlockDevice>) -> Result<Option<(Patched, Vec<String>)>> {
    if sb.log_start == 0 {
        return Err(Error::unsupported("it is on a device of its own"));
    }
    let physical = Physical::new(sb, device.as_ref())?;
    let active = match ends::state(sb, &physical)? {
        State::Clean => return Ok(None),
        State::Dirty(active) => active,
    };
    let unknown = sb.log_incompat & !INCOMPAT_KNOWN;
    if unknown != 0 {
        return Err(Error::unsupported(format!("it has unknown features {unknown:#x}")));
    }
    // Which buffers are not to be replayed is known only at the end: a first pass collects it.
    let mut cancelled = Cancelled::default();
    transactions::walk(sb, &physical, &active, &mut |reader, _, items| cancelled.collect(reader, items))?;
    let unfinished = cancelled.unfinished();
    let mut replay = Replay::new(sb, device.as_ref(), cancelled);
    transactions::walk(sb, &physical, &active, &mut |reader, lsn, items| replay.commit(reader, lsn, items))?;
    let (patches, summary) = replay.finish()?;
    let mut notes = Vec::new();
    // A volume that was frozen for its snapshot has all in its place.
    if patches.len() > 0 {
        notes.push(format!(
            "the volume was not unmounted: its log was replayed in memory ({} transactions, {} sectors)",
            summary.transactions,
            patches.len()
        ));
    }
    if unfinished > 0 {
        notes.push(format!("{unfinished} changes of extents or attributes are begun in the log and not finished"));
    }
    if summary.damaged > 0 {
        let damaged = summary.damaged;
        notes.push(format!("{damaged} blocks and inodes that the log changes were damaged before, and are refused"));
    }
    if summary.skipped > 0 {
        notes.push(format!("{} changes in the log are of a kind that is not replayed", summary.skipped));
    }
    Ok(Some((Patched::new(Arc::clone(device), patches), notes)))
}
