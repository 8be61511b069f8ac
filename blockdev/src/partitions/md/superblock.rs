//! What a member of an md array says of itself and of the array: superblocks of version 0.90 (at the end of the device)
//! and of version 1 (1.0 at the end, 1.1 at the beginning, 1.2 four KiB behind it). See the kernel's `md_p.h`.

use crate::fields::{le16, le32, le64, read, slice, text, uuid};
use crate::{ReadAt, Result};

const MAGIC: u32 = 0xa92b_4efc;
const SECTOR: u64 = 512;
/// A superblock of version 0.90 lies in the last whole 64 KiB of a device.
const RESERVED_090: u64 = 64 << 10;
/// Roles that are counted in version 1, behind the fixed part of 256 bytes.
const ROLES_MAX: usize = 1920;

/// What a member is to its array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has data, in this place.
    Active(u16),
    /// A spare, a journal, or failed.
    Other,
}

/// A superblock.
#[derive(Debug, Clone)]
pub struct Superblock {
    /// -1 for linear, or the RAID level.
    pub level: i32,
    /// The level's own layout.
    pub layout: u32,
    /// Bytes of a chunk.
    pub chunk: u64,
    /// Bytes that each member gives, where the level asks for as much of each.
    pub size: u64,
    /// Members that the array wants.
    pub raid_disks: u32,
    /// Where this member's data begins.
    pub data_offset: u64,
    /// How long it is.
    pub data_size: u64,
    /// Grows with each change of the array's state.
    pub events: u64,
    /// Whether the array was being given another shape.
    pub is_reshaping: bool,
    /// Whether this member was not yet brought up to date.
    pub is_recovering: bool,
    uuid: String,
    name: Option<String>,
    /// This member's number: its place in `roles`.
    number: u32,
    /// By number.
    roles: Vec<Role>,
}

impl Superblock {
    /// The UUID of the array.
    pub fn array_uuid(&self) -> String {
        self.uuid.clone()
    }

    /// The array's number, or its name without that of the host.
    pub fn name(&self) -> Option<String> {
        self.name.clone()
    }

    /// What `member` is to the array, as this superblock (the newest) tells.
    pub fn role_of(&self, member: &Self) -> Role {
        self.roles.get(member.number as usize).copied().unwrap_or(Role::Other)
    }
}

/// The superblock on `device`, or `None` when it is no member of an md array.
pub fn superblock(device: &(impl ReadAt + ?Sized)) -> Result<Option<Superblock>> {
    let sectors = device.size() / SECTOR;
    let at_end = sectors.checked_sub(16).map(|s| (s & !7) * SECTOR);
    // Versions 1.1, 1.2 and 1.0.
    for at in [Some(0), Some(4096), at_end] {
        if let Some(at) = at
            && let Some(found) = version_1(device, at)?
        {
            return Ok(Some(found));
        }
    }
    let at = (device.size() & !(RESERVED_090 - 1)).checked_sub(RESERVED_090);
    at.map_or(Ok(None), |at| version_090(device, at))
}

fn version_1(device: &(impl ReadAt + ?Sized), at: u64) -> Result<Option<Superblock>> {
    /// Features (`MD_FEATURE_*`): a member being brought up to date, and a reshape.
    const RECOVERY_OFFSET: u32 = 2;
    const RESHAPE: u32 = 4;
    let sb = read(device, at, 256 + 2 * ROLES_MAX)?;
    // A copy that lies elsewhere (in an image of a disk within a disk) is not this device's.
    if le32(&sb, 0) != MAGIC || le32(&sb, 4) != 1 || le64(&sb, 144).checked_mul(SECTOR) != Some(at) {
        return Ok(None);
    }
    let max = le32(&sb, 220) as usize;
    if max > ROLES_MAX || le32(&sb, 216) != sum_1(slice(&sb, 0, 256 + 2 * max)) {
        return Ok(None);
    }
    let features = le32(&sb, 8);
    let bytes = |sectors: u64| sectors.saturating_mul(SECTOR);
    let name = text(slice(&sb, 32, 32));
    let roles = (0..max).map(|i| match le16(&sb, 256 + 2 * i) {
        role @ 0..0xff00 => Role::Active(role),
        _ => Role::Other,
    });
    Ok(Some(Superblock {
        level: le32(&sb, 72).cast_signed(),
        layout: le32(&sb, 76),
        chunk: bytes(le32(&sb, 88).into()),
        size: bytes(le64(&sb, 80)),
        raid_disks: le32(&sb, 92),
        data_offset: bytes(le64(&sb, 128)),
        data_size: bytes(le64(&sb, 136)),
        events: le64(&sb, 200),
        is_reshaping: features & RESHAPE != 0,
        is_recovering: features & RECOVERY_OFFSET != 0,
        uuid: uuid(&sb, 16).unwrap_or_default(),
        name: name.map(|n| n.split_once(':').map_or(n.clone(), |(_, own)| own.to_owned())).filter(|n| !n.is_empty()),
        number: le32(&sb, 160),
        roles: roles.collect(),
    }))
}

/// The checksum of version 1: the sum of all words without the checksum's own, folded.
fn sum_1(sb: &[u8]) -> u32 {
    let words = sb.chunks_exact(4).map(|w| u64::from(le32(w, 0))).sum::<u64>();
    let half = if sb.len() % 4 == 2 { u64::from(le16(sb, sb.len() - 2)) } else { 0 };
    folded(words + half - u64::from(le32(sb, 216)))
}

fn folded(sum: u64) -> u32 {
    ((sum & 0xffff_ffff) as u32).wrapping_add((sum >> 32) as u32)
}

fn version_090(device: &(impl ReadAt + ?Sized), at: u64) -> Result<Option<Superblock>> {
    /// Descriptors of members: 27 of 32 words each; then this member's own.
    const DISKS: usize = 128;
    const DISK_WORDS: usize = 32;
    const THIS: usize = 992;
    const SYNC: u32 = 4;
    const FAULTY: u32 = 1;
    let sb = read(device, at, 4096)?;
    let word = |i: usize| le32(&sb, i * 4);
    if word(0) != MAGIC || word(1) != 0 || sb.len() != 4096 {
        return Ok(None);
    }
    let sum = sb.chunks_exact(4).map(|w| u64::from(le32(w, 0))).sum::<u64>() - u64::from(word(38));
    if folded(sum) != word(38) {
        return Ok(None);
    }
    let roles = (0..27).map(|i| {
        let disk = DISKS + i * DISK_WORDS;
        let (role, state) = (word(disk + 3), word(disk + 4));
        match u16::try_from(role) {
            Ok(role) if state & SYNC != 0 && state & FAULTY == 0 => Role::Active(role),
            _ => Role::Other,
        }
    });
    // The UUID's first word lies apart from the others.
    let mut id = Vec::with_capacity(16);
    for i in [5, 13, 14, 15] {
        id.extend(word(i).to_be_bytes());
    }
    Ok(Some(Superblock {
        level: word(7).cast_signed(),
        layout: word(64),
        chunk: word(65).into(),
        size: u64::from(word(8)) * 1024,
        raid_disks: word(10),
        data_offset: 0,
        data_size: at,
        events: le64(&sb, 39 * 4),
        // Minor version 91 says that a reshape is going on.
        is_reshaping: word(2) >= 91,
        is_recovering: false,
        uuid: uuid(&id, 0).unwrap_or_default(),
        name: Some(word(11).to_string()),
        number: word(THIS),
        roles: roles.collect(),
    }))
}
