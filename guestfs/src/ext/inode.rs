//! Inodes: what a file is, apart from its name and content.

use std::sync::Arc;

use blockdev::{
    Error, Result,
    fields::{le16, le32, slice},
};

use super::{
    checksum::{self, Crc32c},
    features,
    superblock::Superblock,
};
use crate::{Kind, Metadata, Time};

/// The content has to be decrypted, names of entries as well.
pub const ENCRYPTED: u32 = 0x800;
/// The directory has a hash tree.
pub const INDEXED: u32 = 0x1000;
/// The count of blocks is one of blocks, not of 512 bytes.
const HUGE: u32 = 0x4_0000;
/// The map is a tree of extents.
pub const EXTENTS: u32 = 0x8_0000;
/// The inode is the value of an attribute, no file.
pub const VALUE: u32 = 0x20_0000;
/// The content is in the inode.
pub const INLINE: u32 = 0x1000_0000;
/// Names of the directory are looked up without regard to case.
pub const CASEFOLDED: u32 = 0x4000_0000;

/// Bytes of the part that all inodes have.
const BASE: usize = 128;
/// Bytes of the map, of a short content or link target.
const MAP: std::ops::Range<usize> = 40..100;

/// An inode whose checksum is right.
#[derive(Clone)]
pub struct Inode {
    /// Its number.
    pub number: u32,
    /// A piece of the inode table with it.
    table: Arc<[u8]>,
    at: usize,
    len: usize,
    /// Where the checksums of its blocks start.
    pub seed: Crc32c,
}

impl Inode {
    /// Inode `number`, `at` bytes from the start of `table`.
    ///
    /// # Errors
    ///
    /// When it is damaged.
    pub fn parse(superblock: &Superblock, number: u32, table: Arc<[u8]>, at: usize) -> Result<Self> {
        let len = superblock.inode_size as usize;
        let raw = slice(&table, at, len);
        let generation = slice(raw, 100, 4);
        let seed = superblock.seed.add(&number.to_le_bytes()).add(generation);
        let inode = Self { number, table, at, len, seed };
        if superblock.has_checksums() {
            let (stored, computed) = inode.checksums();
            checksum::expect(stored, computed, format_args!("inode {number}"))?;
        }
        let extra = inode.extra();
        if BASE + extra > len.max(BASE) || !extra.is_multiple_of(4) {
            return Err(inode.damaged(format_args!("it claims {extra} bytes of further fields")));
        }
        Ok(inode)
    }

    /// The checksum as stored, and as it should be. Its upper half is stored where there is room for it.
    fn checksums(&self) -> (u32, u32) {
        const LOW: usize = 124;
        const HIGH: usize = 130;
        let raw = self.raw();
        let mut sum = self.seed.add_range(raw, 0..LOW).add(&[0; 2]).add_range(raw, LOW + 2..BASE);
        let has_high = self.has(HIGH + 2);
        if self.len > BASE {
            sum = sum.add_range(raw, BASE..HIGH);
            let rest = if has_high {
                sum = sum.add(&[0; 2]);
                HIGH + 2
            } else {
                HIGH
            };
            sum = sum.add_range(raw, rest..self.len);
        }
        let (low, high) = (le16(raw, LOW).into(), u32::from(le16(raw, HIGH)));
        if has_high { (low | high << 16, sum.value()) } else { (low, sum.value() & 0xffff) }
    }

    /// All its bytes.
    pub fn raw(&self) -> &[u8] {
        slice(&self.table, self.at, self.len)
    }

    /// The bytes of its map.
    pub fn map(&self) -> &[u8] {
        slice(self.raw(), MAP.start, MAP.len())
    }

    /// Bytes of fields behind the first 128 bytes.
    fn extra(&self) -> usize {
        if self.len > BASE { le16(self.raw(), BASE).into() } else { 0 }
    }

    /// Whether its fields reach to byte `end`, which is above 128.
    fn has(&self, end: usize) -> bool {
        BASE + self.extra() >= end
    }

    /// What is behind its fields: room for attributes.
    pub fn tail(&self) -> &[u8] {
        if self.len > BASE { self.raw().get(BASE + self.extra()..).unwrap_or_default() } else { &[] }
    }

    /// Whether all of `flags` are set.
    pub fn is(&self, flags: u32) -> bool {
        le32(self.raw(), 32) & flags == flags
    }

    /// Its type.
    ///
    /// # Errors
    ///
    /// `Damaged` when there is no such type.
    pub fn kind(&self) -> Result<Kind> {
        Ok(match le16(self.raw(), 0) >> 12 {
            0x1 => Kind::Fifo,
            0x2 => Kind::CharDevice,
            0x4 => Kind::Dir,
            0x6 => Kind::BlockDevice,
            0x8 => Kind::File,
            0xa => Kind::Symlink,
            0xc => Kind::Socket,
            other => return Err(self.damaged(format_args!("there is no file type {other:#x}"))),
        })
    }

    /// Number of names; none when the file was deleted.
    pub fn links(&self) -> u16 {
        le16(self.raw(), 26)
    }

    /// Bytes of the content. Small directories have no upper half.
    ///
    /// # Errors
    ///
    /// `Damaged` above 2^63 - 1, which no system can have written.
    pub fn size(&self, superblock: &Superblock) -> Result<u64> {
        let raw = self.raw();
        let is_wide = le16(raw, 0) >> 12 == 0x8 || superblock.features.incompatible(features::LARGEDIR);
        let high = if is_wide { le32(raw, 108) } else { 0 };
        let size = u64::from(le32(raw, 4)) | u64::from(high) << 32;
        if size >> 63 == 0 { Ok(size) } else { Err(self.damaged(format_args!("it claims {size} bytes"))) }
    }

    /// Bytes that are allocated for it, attributes included.
    pub fn allocated(&self, superblock: &Superblock) -> u64 {
        let raw = self.raw();
        let low = u64::from(le32(raw, 28));
        if !superblock.features.read_only(features::HUGE_FILE) {
            return low * 512;
        }
        let count = low | u64::from(le16(raw, 116)) << 32;
        count * if self.is(HUGE) { u64::from(superblock.block_size) } else { 512 }
    }

    /// The block with further attributes, 0 when there is none.
    pub fn attribute_block(&self, superblock: &Superblock) -> u64 {
        let raw = self.raw();
        let high = if superblock.features.incompatible(features::BIT64) { le16(raw, 118) } else { 0 };
        u64::from(le32(raw, 104)) | u64::from(high) << 32
    }

    /// The checksum of the value that this inode is. It is where files have the time of their last access.
    pub fn value_hash(&self) -> u32 {
        le32(self.raw(), 8)
    }

    /// Its generation.
    pub fn generation(&self) -> u32 {
        le32(self.raw(), 100)
    }

    /// The number that Lustre keeps in the time of the last change of a value's inode: that of its file.
    pub fn value_parent(&self) -> u32 {
        le32(self.raw(), 16)
    }

    /// The time whose seconds are at `at` and whose further bits are at `extra`: the lower two count periods of 2^32
    /// seconds, the others are nanoseconds.
    fn time(&self, at: usize, extra: usize) -> Time {
        let raw = self.raw();
        let seconds = i64::from(le32(raw, at).cast_signed());
        let extra = if self.has(extra + 4) { le32(raw, extra) } else { 0 };
        Time { seconds: seconds + (i64::from(extra & 3) << 32), nanos: (extra >> 2).min(999_999_999) }
    }

    /// Major and minor number. The first word has both in a byte each, or is 0 and the second has the larger form.
    fn device(&self) -> (u32, u32) {
        let (old, new) = (le32(self.map(), 0), le32(self.map(), 4));
        if old != 0 { (old >> 8 & 0xff, old & 0xff) } else { (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00) }
    }

    /// What `stat` says.
    ///
    /// # Errors
    ///
    /// When the type or the size is impossible.
    pub fn metadata(&self, superblock: &Superblock) -> Result<Metadata> {
        let raw = self.raw();
        let kind = self.kind()?;
        let id = |low: usize, high: usize| u32::from(le16(raw, low)) | u32::from(le16(raw, high)) << 16;
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let size = self.size(superblock)?;
        // Like the kernel: content in the inode is where attributes are, and counts.
        let inline = if kind == Kind::File && self.is(INLINE) { size.div_ceil(512).saturating_mul(512) } else { 0 };
        Ok(Metadata {
            kind,
            permissions: u32::from(le16(raw, 0)) & 0o7777,
            nlink: self.links().into(),
            uid: id(2, 120),
            gid: id(24, 122),
            rdev: if is_device { self.device() } else { (0, 0) },
            size,
            allocated: self.allocated(superblock).saturating_add(inline),
            accessed: self.time(8, 140),
            modified: self.time(16, 136),
            changed: self.time(12, 132),
            created: self.has(148).then(|| self.time(144, 148)),
        })
    }

    /// The error that it is damaged, and how.
    pub fn damaged(&self, how: std::fmt::Arguments<'_>) -> Error {
        damaged(self.number, how)
    }
}

/// The error that inode `number` is damaged, and how.
pub fn damaged(number: u32, how: std::fmt::Arguments<'_>) -> Error {
    Error::damaged(format!("inode {number} is damaged: {how}"))
}
