//! What version 5 metadata says of itself: a CRC-32C over the whole block, whose it is, and where it should be.
//!
//! A block of an older version has a magic number and nothing else.

use blockdev::{
    Error, Result,
    fields::{be16, be32, be64, le32, slice},
};
use crc_fast::{CrcAlgorithm, Digest};

use super::superblock::{BASIC_LOG, Superblock};

/// Where the self-describing fields of a kind of block are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// What it is, for people.
    pub name: &'static str,
    /// The magic number: of four bytes at the start, or of two in the header that directory and attribute trees share.
    pub magic: Magic,
    /// The checksum, little-endian, computed with itself as zeros.
    pub sum: usize,
    /// Position in the log of the last change that was written here.
    pub lsn: usize,
    /// UUID of the filesystem.
    pub uuid: usize,
    /// Address of the block in units of 512 bytes, and inode that it belongs to.
    pub place: Option<(usize, usize)>,
}

/// A magic number by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Magic {
    /// At byte 0.
    Start([u8; 4]),
    /// At byte 8.
    Da(u16),
}

const fn da(name: &'static str, magic: u16) -> Fields {
    Fields { name, magic: Magic::Da(magic), sum: 12, lsn: 24, uuid: 32, place: Some((16, 48)) }
}

const fn data(name: &'static str, magic: [u8; 4]) -> Fields {
    Fields { name, magic: Magic::Start(magic), sum: 4, lsn: 16, uuid: 24, place: Some((8, 40)) }
}

const fn remote(name: &'static str, magic: [u8; 4]) -> Fields {
    Fields { name, magic: Magic::Start(magic), sum: 12, lsn: 48, uuid: 16, place: Some((40, 32)) }
}

/// The superblock.
pub const SUPERBLOCK: Fields =
    Fields { name: "superblock", magic: Magic::Start(*b"XFSB"), sum: 224, lsn: 240, uuid: 32, place: None };
/// Free space of a group.
pub const AGF: Fields =
    Fields { name: "AGF", magic: Magic::Start(*b"XAGF"), sum: 216, lsn: 208, uuid: 64, place: None };
/// Inodes of a group.
pub const AGI: Fields =
    Fields { name: "AGI", magic: Magic::Start(*b"XAGI"), sum: 312, lsn: 320, uuid: 296, place: None };
/// A block of the tree of a fork's extents.
pub const MAP: Fields = Fields {
    name: "block of an extent tree",
    magic: Magic::Start(*b"BMA3"),
    sum: 64,
    lsn: 32,
    uuid: 40,
    place: Some((24, 56)),
};
/// The only block of a directory.
pub const DIR_BLOCK: Fields = data("directory block", *b"XDB3");
/// A block with entries of a larger directory.
pub const DIR_DATA: Fields = data("directory block", *b"XDD3");
/// The only block with hashes of a directory.
pub const DIR_LEAF1: Fields = da("block of directory hashes", 0x3df1);
/// One of several blocks with hashes of a directory.
pub const DIR_LEAFN: Fields = da("block of directory hashes", 0x3dff);
/// A node above blocks with hashes.
pub const DA_NODE: Fields = da("node of a hash tree", 0x3ebe);
/// A block with attributes.
pub const ATTR_LEAF: Fields = da("attribute block", 0x3bee);
/// A block of a symbolic link's target.
pub const SYMLINK: Fields = remote("block of a link's target", *b"XSLM");
/// A block of an attribute's value.
pub const ATTR_VALUE: Fields = remote("block of an attribute's value", *b"XARM");

/// The kinds whose content the log can have.
const LOGGED: [&Fields; 11] =
    [&SUPERBLOCK, &AGF, &AGI, &MAP, &DIR_BLOCK, &DIR_DATA, &DIR_LEAF1, &DIR_LEAFN, &DA_NODE, &ATTR_LEAF, &SYMLINK];

/// Which kind of logged version 5 block `bytes` are, by their magic number.
pub fn identify(bytes: &[u8]) -> Option<&'static Fields> {
    LOGGED.into_iter().find(|fields| fields.is_in(bytes))
}

/// The CRC-32C of `bytes` with the four bytes at `at` as zeros.
pub fn sum(bytes: &[u8], at: usize) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(slice(bytes, 0, at));
    digest.update(&[0; 4]);
    digest.update(bytes.get(at + 4..).unwrap_or_default());
    digest.finalize() as u32
}

/// Whether the checksum at `at` is that of `bytes`. A fuzzer cannot make it so: it is let through.
pub fn sum_matches(bytes: &[u8], at: usize) -> bool {
    let matches = sum(bytes, at) == le32(bytes, at);
    matches || cfg!(fuzzing)
}

impl Fields {
    /// Whether `bytes` have its magic number.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        match self.magic {
            Magic::Start(magic) => bytes.starts_with(&magic),
            Magic::Da(magic) => be16(bytes, 8) == magic,
        }
    }

    /// Check that `bytes`, from byte `place` of the volume, are such a block of inode `owner`, and sound.
    ///
    /// # Errors
    ///
    /// When they are not.
    pub fn verify(&self, sb: &Superblock, bytes: &[u8], place: u64, owner: u64) -> Result<()> {
        let wrong =
            |what: &str| Err(Error::damaged(format!("inode {owner}: the {} at byte {place} {what}", self.name)));
        if !self.is_in(bytes) {
            return wrong(&format!("has the wrong magic number {:#010x}", be32(bytes, 0)));
        }
        if !sum_matches(bytes, self.sum) {
            return wrong("does not match its checksum");
        }
        if slice(bytes, self.uuid, 16) != sb.meta_uuid {
            return wrong("belongs to another filesystem");
        }
        match self.place {
            Some((at, _)) if be64(bytes, at) != place >> BASIC_LOG => wrong("says that it lies elsewhere"),
            Some((_, at)) if be64(bytes, at) != owner => wrong("belongs to another inode"),
            _ => Ok(()),
        }
    }
}
