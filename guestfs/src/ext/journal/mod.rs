//! The journal, replayed in memory ("Journal (jbd2)"). Its numbers are big-endian.
//!
//! A volume that was copied while its guest ran, or after a crash, has changes in its log that are not yet in their
//! place. Mounting it would write them there; here the blocks are put over the device as [`Patches`]. As in the kernel,
//! the log is read twice: first to find the last transaction that is complete and all blocks that were given up
//! (revoked) later than they were logged, then for the blocks.
//!
//! * [`header`]: the journal's superblock;
//! * [`log`]: its blocks, and what descriptors, revocations and commits say;
//! * [`scan`], [`replay`]: the two readings.

mod header;
mod log;
mod replay;
mod scan;

use std::sync::Arc;

use blockdev::{BlockDevice, Error, Result};

use self::{header::Header, log::Log};
use super::{features, map::Map, superblock::Superblock, volume::Volume};
use crate::patched::Patched;

/// A volume without a journal.
pub struct Replayed {
    /// The device, with what the journal has in place.
    pub device: Arc<dyn BlockDevice>,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// The volume on `device` with the superblock `superblock`, as if its journal had been replayed.
///
/// # Errors
///
/// When the journal has to be replayed and cannot be read or is damaged: what it hides would be shown as it was before.
pub fn replayed(device: Arc<dyn BlockDevice>, superblock: &Superblock) -> Result<Replayed> {
    let needs_recovery = superblock.features.incompatible(features::RECOVER);
    // That mark is in the first superblock only: without that the journal itself is asked.
    if !superblock.features.compatible(features::HAS_JOURNAL) || !(needs_recovery || superblock.is_copy) {
        return Ok(Replayed { device, notes: Vec::new() });
    }
    if superblock.journal == 0 {
        let note = "its journal is on another device: the changes of the last seconds that are there are not shown";
        return Ok(Replayed { device, notes: vec![note.to_owned()] });
    }
    replay_from(device, superblock)
        .map_err(|e| e.context("its journal has to be replayed and cannot (restore the disk and run e2fsck)"))
}

fn replay_from(device: Arc<dyn BlockDevice>, superblock: &Superblock) -> Result<Replayed> {
    let volume = Arc::new(Volume::new(Arc::clone(&device), superblock.clone()));
    let inode = volume.inode(superblock.journal)?;
    let blocks = inode.size(superblock)? / volume.block_size();
    let mut log = Log::new(Map::new(Arc::clone(&volume), &inode), blocks);
    let header = Header::parse(log.block(0, 1)?, superblock.block_size, blocks)?;
    if header.start == 0 {
        return Ok(Replayed { device, notes: Vec::new() });
    }
    let scanned = scan::scan(&mut log, &header)?;
    let patches = replay::replay(&mut log, &header, &scanned)?;
    let mut notes = Vec::new();
    if scanned.transactions > 0 {
        notes.push(format!(
            "the volume was in use: its journal was replayed in memory ({} transactions, {} blocks)",
            scanned.transactions,
            patches.blocks.len()
        ));
    }
    if !patches.lost.is_empty() {
        let lost = patches.lost.len();
        notes.push(format!("{lost} blocks in the journal are damaged: what they belong to cannot be read"));
    }
    if scanned.is_cut {
        notes.push("the last transaction in the journal is incomplete and not shown".to_owned());
    }
    if header.has_fast_commits(&mut log, scanned.end)? {
        notes.push(
            "the journal ends with fast commits: the changes of the last seconds in them are not shown".to_owned(),
        );
    }
    let device: Arc<dyn BlockDevice> = match patches.blocks.len() {
        0 => device,
        _ => Arc::new(Patched::new(device, patches.blocks)),
    };
    Ok(Replayed { device, notes })
}

/// The error that the log has something at block `number` of the journal that cannot be.
fn damaged(number: u64, how: &str) -> Error {
    Error::damaged(format!("block {number} of the journal {how}"))
}
