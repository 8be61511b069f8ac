//! The devices of a filesystem that are at hand.
//!
//! Each has a superblock with its own number and UUID. The one that was written last says what the filesystem is; a
//! device with an older one missed writes (it was away for a while), and is read only where no other can be.

use std::sync::Arc;

use blockdev::{BlockDevice, Result};

use super::superblock::{DevItem, Superblock};

/// A device that is at hand.
pub struct Member {
    /// The device.
    pub device: Arc<dyn BlockDevice>,
    /// Its number and UUID.
    pub item: DevItem,
    /// Whether it missed writes.
    pub is_stale: bool,
    generation: u64,
}

/// The devices at hand.
pub struct Members {
    list: Vec<Member>,
    /// What an operator should know of them.
    pub notes: Vec<String>,
}

impl Members {
    /// Looks at all of `devices`: the superblock that counts, and the members.
    ///
    /// # Errors
    ///
    /// When no device has a superblock that can be read.
    pub fn gather(devices: &[Arc<dyn BlockDevice>]) -> Result<(Superblock, Self)> {
        let mut notes = Vec::new();
        let mut found: Vec<(Superblock, Arc<dyn BlockDevice>)> = Vec::new();
        let mut wrong = None;
        for device in devices {
            match Superblock::of(device.as_ref()) {
                Ok(superblock) => found.push((superblock, Arc::clone(device))),
                Err(e) => wrong = Some(e),
            }
        }
        if let (Some(e), false) = (&wrong, found.is_empty()) {
            notes.push(format!("a device is left out: {e}"));
        }
        // What was made of a seed is the filesystem, where both are at hand.
        let newest = (0..found.len())
            .max_by_key(|n| found.get(*n).map(|(s, _)| (!s.is_seed, s.generation, std::cmp::Reverse(*n))));
        let Some(newest) = newest else {
            let none = || blockdev::Error::invalid("a filesystem on no device");
            return Err(wrong.unwrap_or_else(none));
        };
        let mut list: Vec<Member> = Vec::new();
        let mut superblocks = Vec::new();
        for (superblock, device) in found {
            let member = Member { device, item: superblock.device, is_stale: false, generation: superblock.generation };
            superblocks.push(superblock);
            list.push(member);
        }
        let superblock = superblocks.swap_remove(newest);
        for member in &mut list {
            member.is_stale = member.item.fsid == superblock.device.fsid && member.generation < superblock.generation;
        }
        // Copies of one device: the newest, and the first of equals.
        let all = list.len();
        list.sort_by_key(|m| (m.item.id, m.item.uuid, std::cmp::Reverse(m.generation)));
        list.dedup_by_key(|m| (m.item.id, m.item.uuid));
        if list.len() < all {
            notes.push(format!("{} of its volumes are copies of others, and left out", all - list.len()));
        }
        for member in list.iter().filter(|m| m.is_stale) {
            let (id, behind) = (member.item.id, superblock.generation - member.generation);
            notes.push(format!("device {id} missed the last {behind} transactions: others are read instead"));
        }
        Ok((superblock, Self { list, notes }))
    }

    /// The index of the device with this number and UUID.
    pub fn position(&self, id: u64, uuid: &[u8; 16]) -> Option<u32> {
        let found = self.list.iter().position(|m| m.item.id == id && m.item.uuid == *uuid)?;
        u32::try_from(found).ok()
    }

    /// Member `index`.
    pub fn get(&self, index: u32) -> Option<&Member> {
        self.list.get(index as usize)
    }
}
