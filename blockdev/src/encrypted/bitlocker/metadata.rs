//! The metadata of a volume: how far it is encrypted, what was moved where, and the items with its keys.
//!
//! The boot sector has the places of three copies behind a GUID (Vista: the cluster of the first in a field of its own). A
//! copy is a header, a list of items, and a CRC-32 over both; the first that is whole is taken.

use std::ops::Range;

use crc_fast::{CrcAlgorithm, checksum};
use sha2::{Digest, Sha256};

use super::super::secrets::HeaderId;
use crate::{
    BlockDevice, Error, Result,
    fields::{self, le16, le32, le64, slice},
};

/// What the boot sector of a volume has in the place of the filesystem's name, and a copy of the metadata at its head.
const SIGNATURE: &[u8] = b"-FVE-FS-";
/// 4967D63B-2E29-4AD8-8399-F6A339E3D001, as it is stored: the places of the metadata follow.
pub const PLACES: [u8; 16] =
    [0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01];
/// 92A84D3B-DD80-4D0E-9E4E-B1E3284EAED8: the same for a volume of which only the used space is encrypted so far.
const PLACES_USED_SPACE: [u8; 16] =
    [0x3b, 0x4d, 0xa8, 0x92, 0x80, 0xdd, 0x0e, 0x4d, 0x9e, 0x4e, 0xb1, 0xe3, 0x28, 0x4e, 0xae, 0xd8];

/// Bytes of a copy, at most: what Windows keeps free for one.
const COPY_MAX: usize = 0x1_0000;
/// The head of a copy, and that of its list of items.
const HEAD: usize = 64;
const LIST_HEAD: usize = 48;
/// The head of an item.
const ITEM_HEAD: usize = 8;

/// How far encryption has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was taken back.
    Decrypted,
    /// It was begun, and may be complete.
    Encrypted,
}

/// A copy of the metadata.
#[derive(Debug)]
pub struct Metadata {
    /// Stands for it.
    pub id: HeaderId,
    /// 1: Vista; 2: Windows 7 and later.
    pub version: u16,
    /// Bytes of a sector.
    pub sector: u64,
    /// How far encryption has come.
    pub state: State,
    /// The byte up to which the volume is encrypted; 0: all of it.
    pub state_offset: u64,
    /// What Windows keeps while it encrypts: bytes from [`Self::state_offset`] on.
    state_len: u64,
    /// Bytes at the beginning of the volume that were moved.
    pub moved_len: u64,
    /// Where to; in Vista the cluster of the MFT's mirror.
    pub moved_to: u64,
    /// Where the copies are.
    copies: [u64; 3],
    /// Bytes that each has.
    copy_len: u64,
    /// Where a volume says which of its space is encrypted, if only used space is.
    pub used_space: Vec<u64>,
    items: Vec<u8>,
}

/// An item: what it is for, of what type it is, and its data, which may have items in it.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// What it is for; see [`role`].
    pub role: u16,
    /// Of what type it is; see [`kind`].
    pub kind: u16,
    /// Its data.
    pub data: &'a [u8],
}

/// What items are for.
pub mod role {
    /// The master key behind a protector.
    pub const MASTER_KEY: u16 = 2;
    /// The key of the sectors.
    pub const SECTOR_KEY: u16 = 3;
    /// The key in a startup key's file.
    pub const STARTUP_KEY: u16 = 6;
}

/// Types of items.
pub mod kind {
    /// A key in the clear: what it is for, and the key.
    pub const KEY: u16 = 1;
    /// How a key is stretched: what for, and a salt.
    pub const STRETCH: u16 = 3;
    /// A key encrypted by AES-CCM.
    pub const CCM: u16 = 5;
    /// A master key with its protector.
    pub const MASTER_KEY: u16 = 8;
    /// A key outside of the volume.
    pub const EXTERNAL_KEY: u16 = 9;
}

/// The items in `bytes`, up to the first that is not whole.
pub fn items(mut bytes: &[u8]) -> impl Iterator<Item = Item<'_>> {
    std::iter::from_fn(move || {
        let len = usize::from(le16(bytes, 0));
        let (item, rest) = bytes.split_at_checked(len).filter(|_| len >= ITEM_HEAD)?;
        bytes = rest;
        Some(Item { role: le16(item, 2), kind: le16(item, 4), data: item.get(ITEM_HEAD..)? })
    })
}

/// The items of a list with its head, as metadata and the files of startup keys have it.
pub fn list(bytes: &[u8]) -> Option<&[u8]> {
    let (from, to) = (le32(bytes, 8) as usize, le32(bytes, 12) as usize);
    let is_one = le32(bytes, 4) == 1 && from >= LIST_HEAD && le32(bytes, 0) as usize <= bytes.len();
    bytes.get(from..to).filter(|_| is_one)
}

/// The metadata of the volume on `device`.
///
/// # Errors
///
/// `Damaged` when no copy is whole.
pub fn read(device: &dyn BlockDevice) -> Result<Metadata> {
    let boot = fields::read(device, 0, 512)?;
    let sector = u64::from(le16(&boot, 11));
    if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
        return Err(Error::damaged(format!("BitLocker's boot sector tells of sectors of {sector} bytes")));
    }
    let cluster = sector * u64::from(boot.get(13).copied().unwrap_or(0)).max(1);
    let after = |guid: &[u8; 16]| boot.windows(guid.len()).position(|w| w == guid).map(|at| at + guid.len());
    let numbers = |at: usize, n: usize| (0..n).map(|i| le64(&boot, at + 8 * i)).collect::<Vec<_>>();
    let (places, used_space) = match (after(&PLACES_USED_SPACE), after(&PLACES)) {
        (Some(at), _) => (numbers(at, 3), numbers(at + 24, 2)),
        (None, Some(at)) => (numbers(at, 3), Vec::new()),
        (None, None) => (vec![le64(&boot, 56).saturating_mul(cluster)], Vec::new()),
    };
    let mut failed = None;
    for place in places {
        match copy(device, place, sector, cluster) {
            Ok(found) => return Ok(Metadata { used_space, ..found }),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    Err(failed.unwrap_or_else(|| Error::damaged("BitLocker's boot sector names no metadata")))
}

fn copy(device: &dyn BlockDevice, at: u64, sector: u64, cluster: u64) -> Result<Metadata> {
    let damaged = |what: &str| Error::damaged(format!("BitLocker's metadata at byte {at} {what}"));
    let bytes = fields::read(device, at, COPY_MAX)?;
    let version = le16(&bytes, 10);
    if !bytes.starts_with(SIGNATURE) || !(1..=2).contains(&version) {
        return Err(damaged("is not there, or of a version that is not known"));
    }
    // Counted in sixteens since the second version. The checksum follows.
    let len = usize::from(le16(&bytes, 8)) << if version == 1 { 0 } else { 4 };
    let (all, after) = bytes.split_at_checked(len).unwrap_or((&[], &[]));
    if all.len() < HEAD + LIST_HEAD || after.len() < 8 {
        return Err(damaged("has a length that cannot be"));
    }
    if checksum(CrcAlgorithm::Crc32IsoHdlc, all) != u64::from(le32(after, 4)) {
        return Err(damaged("does not match its checksum"));
    }
    let items = slice(all, HEAD, all.len());
    let items = list(items).ok_or_else(|| damaged("has no list of items"))?;
    Ok(Metadata {
        id: Sha256::digest(all).into(),
        version,
        sector,
        state: if le16(all, 12) == 1 { State::Decrypted } else { State::Encrypted },
        state_offset: le64(all, 16),
        state_len: if le16(all, 12) == 2 { u64::from(le32(all, 24)) } else { 0 },
        moved_len: u64::from(le32(all, 28)).saturating_mul(sector),
        moved_to: le64(all, 56),
        copies: [le64(all, 32), le64(all, 40), le64(all, 48)],
        copy_len: match version {
            1 => 0x4000_u64.next_multiple_of(cluster),
            _ => COPY_MAX as u64,
        },
        used_space: Vec::new(),
        items: items.to_vec(),
    })
}

impl Metadata {
    /// Its items.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        items(&self.items)
    }

    /// What can open it, for people.
    pub fn protectors(&self) -> impl Iterator<Item = &'static str> {
        let mut known = Vec::new();
        for protector in self.items().filter_map(super::protectors::Protector::of) {
            if !known.contains(&protector.name()) {
                known.push(protector.name());
            }
        }
        known.into_iter()
    }

    /// What belongs to the encryption and is shown as zeros, ascending, on a device of `size` bytes: `more`, and what the
    /// metadata take.
    pub fn reserved(&self, more: Vec<Range<u64>>, size: u64) -> Vec<Range<u64>> {
        let mut all = more;
        all.extend(self.copies.iter().map(|at| *at..at.saturating_add(self.copy_len)));
        if self.version > 1 {
            all.push(self.moved_to..self.moved_to.saturating_add(self.moved_len));
        }
        if self.state_len > 0 && self.state_offset > 0 {
            all.push(self.state_offset..self.state_offset.saturating_add(self.state_len));
        }
        let whole = |r: Range<u64>| r.start - r.start % self.sector..r.end.min(size).next_multiple_of(self.sector);
        let mut all: Vec<_> = all.into_iter().filter(|r| r.start < size).map(whole).collect();
        all.sort_by_key(|r| r.start);
        all
    }
}
