//! What a volume holds, told by its superblock: the kind of filesystem or container, its label and its UUID.
//!
//! Most kinds are a row of [`SIGNATURES`]; those whose label or identity takes more than a field have a function in
//! [`special`]. Labels and UUIDs are written as `blkid` writes them.

mod special;

use super::{lvm, md};
use crate::{
    ReadAt, Result,
    fields::{read, slice, text, uuid},
};

/// A kind of filesystem, or of container that holds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "they are named after what they are")]
pub enum FsKind {
    Ext2,
    Ext3,
    Ext4,
    /// The journal of an ext3 or ext4 that lies elsewhere.
    ExtJournal,
    Xfs,
    Btrfs,
    Ntfs,
    Refs,
    Fat12,
    Fat16,
    Fat32,
    ExFat,
    Zfs,
    Swap,
    Luks1,
    Luks2,
    BitLocker,
    Iso9660,
    Squashfs,
    /// A physical volume of LVM2.
    LvmMember,
    /// A member of an md array.
    MdMember,
}

impl FsKind {
    /// Its name: `ext4`, `ntfs`, `fat32`, `lvm2_member` ...
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::ExtJournal => "jbd",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Ntfs => "ntfs",
            Self::Refs => "refs",
            Self::Fat12 => "fat12",
            Self::Fat16 => "fat16",
            Self::Fat32 => "fat32",
            Self::ExFat => "exfat",
            Self::Zfs => "zfs_member",
            Self::Swap => "swap",
            Self::Luks1 => "luks1",
            Self::Luks2 => "luks2",
            Self::BitLocker => "bitlocker",
            Self::Iso9660 => "iso9660",
            Self::Squashfs => "squashfs",
            Self::LvmMember => "lvm2_member",
            Self::MdMember => "md_member",
        }
    }

    /// Whether what it holds is encrypted.
    #[must_use]
    pub const fn is_encrypted(self) -> bool {
        matches!(self, Self::Luks1 | Self::Luks2 | Self::BitLocker)
    }

    /// Whether it is one part of something that other parts belong to: it holds no files by itself.
    #[must_use]
    pub const fn is_member(self) -> bool {
        matches!(self, Self::LvmMember | Self::MdMember | Self::ExtJournal)
    }
}

impl std::fmt::Display for FsKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its kind.
    pub kind: FsKind,
    /// Its label; for a member, the name of the group, pool or array where the member says it.
    pub label: Option<String>,
    /// Its UUID or serial number; for a member of an array or a pool, that of the whole.
    pub uuid: Option<String>,
}

impl Content {
    const fn of(kind: FsKind) -> Self {
        Self { kind, label: None, uuid: None }
    }
}

/// A place in the superblock.
enum Field {
    /// There is none.
    No,
    /// Text of at most so many bytes.
    Text(usize, usize),
    /// A UUID of 16 bytes.
    Uuid(usize),
}

impl Field {
    fn get(&self, head: &[u8]) -> Option<String> {
        match *self {
            Self::No => None,
            Self::Text(at, len) => text(slice(head, at, len)),
            Self::Uuid(at) => uuid(head, at),
        }
    }
}

/// What tells a kind, and where its label and its UUID are.
struct Signature {
    kind: FsKind,
    /// Bytes that have to be at these places.
    magic: &'static [(usize, &'static [u8])],
    label: Field,
    uuid: Field,
}

/// Bytes at the head of a volume that are read: the first superblock of btrfs is the last thing in them.
const HEAD: usize = 0x1_1000;

/// The kinds that a glance at their superblock tells. Containers come first: what lies in them may show through.
const SIGNATURES: [Signature; 9] = [
    Signature {
        kind: FsKind::Luks1,
        magic: &[(0, b"LUKS\xba\xbe\x00\x01")],
        label: Field::No,
        uuid: Field::Text(168, 40),
    },
    Signature {
        kind: FsKind::Luks2,
        magic: &[(0, b"LUKS\xba\xbe\x00\x02")],
        label: Field::Text(24, 48),
        uuid: Field::Text(168, 40),
    },
    Signature { kind: FsKind::BitLocker, magic: &[(3, b"-FVE-FS-")], label: Field::No, uuid: Field::No },
    // "To Go": in front of it is a small FAT with a program that reads it.
    Signature {
        kind: FsKind::BitLocker,
        magic: &[(3, b"MSWIN4.1"), (424, b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01")],
        label: Field::No,
        uuid: Field::No,
    },
    Signature { kind: FsKind::Refs, magic: &[(3, b"ReFS\0\0\0\0"), (16, b"FSRS")], label: Field::No, uuid: Field::No },
    Signature { kind: FsKind::Squashfs, magic: &[(0, b"hsqs")], label: Field::No, uuid: Field::No },
    Signature { kind: FsKind::Xfs, magic: &[(0, b"XFSB")], label: Field::Text(108, 12), uuid: Field::Uuid(32) },
    Signature {
        kind: FsKind::Btrfs,
        magic: &[(0x1_0040, b"_BHRfS_M")],
        label: Field::Text(0x1_012b, 256),
        uuid: Field::Uuid(0x1_0020),
    },
    // The label moved when version 2 came, which is the only one left.
    Signature {
        kind: FsKind::Swap,
        magic: &[(4086, b"SWAPSPACE2")],
        label: Field::Text(1052, 16),
        uuid: Field::Uuid(1036),
    },
];

impl Signature {
    fn matches(&self, head: &[u8]) -> bool {
        self.magic.iter().all(|(at, magic)| slice(head, *at, magic.len()) == *magic)
    }
}

/// What `volume` holds, or `None` when that is not known.
///
/// # Errors
///
/// When it cannot be read.
pub fn detect(volume: &dyn ReadAt) -> Result<Option<Content>> {
    if let Some(member) = md::superblock(volume)? {
        return Ok(Some(Content { kind: FsKind::MdMember, label: member.name(), uuid: Some(member.array_uuid()) }));
    }
    if let Some(label) = lvm::label(volume)? {
        return Ok(Some(Content { kind: FsKind::LvmMember, label: None, uuid: Some(label.pv_id) }));
    }
    let head = read(volume, 0, HEAD)?;
    if let Some(found) = SIGNATURES.iter().find(|s| s.matches(&head)) {
        return Ok(Some(Content { kind: found.kind, label: found.label.get(&head), uuid: found.uuid.get(&head) }));
    }
    for probe in special::PROBES {
        if let Some(content) = probe(volume, &head)? {
            return Ok(Some(content));
        }
    }
    Ok(None)
}
