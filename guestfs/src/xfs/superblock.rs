//! The superblock: the geometry of the volume, its features, and what an address means.
//!
//! XFS divides a volume into allocation groups of equal size, the last of which may be shorter. A *filesystem block* and
//! an inode number are sparse addresses: the group in the high bits, the place within it in the low ones. Everything
//! that is read by an address goes through [`Superblock::extent`] or [`Superblock::inode_place`], which refuse what lies
//! in no group. ("XFS Algorithms & Data Structures", chapter "Allocation Groups".)

use blockdev::{
    Error, ErrorKind, ReadAt, Result,
    fields::{be16, be32, be64, read, slice, text, uuid},
};

use super::check;

/// Bytes of the superblock that are read at first: the smallest sector.
const HEAD: usize = 512;

/// A basic block: what disk addresses in headers and in the log count.
pub const BASIC_LOG: u32 = 9;

/// Copies of the superblock that are tried.
const COPIES_MAX: u32 = 64;

/// The largest inode number has 56 bits.
const INODE_MAX: u64 = (1 << 56) - 1;

/// Version bits of `sb_versionnum`.
const VERSION_MASK: u16 = 0x000f;
const DIRECTORY_V2: u16 = 0x2000;
const ASCII_CI: u16 = 0x4000;
const MORE_BITS: u16 = 0x8000;

/// Bits of `sb_features2`.
const LAZY_COUNTERS: u32 = 0x2;
const FTYPE_V4: u32 = 0x200;

/// Bits of `sb_features_incompat`, and what the manual pages call them.
const INCOMPAT: [(u32, &str); 11] = [
    (FTYPE, "ftype"),
    (0x2, "spinodes"),
    (META_UUID, "meta_uuid"),
    (0x8, "bigtime"),
    (NEEDS_REPAIR, "needsrepair"),
    (0x20, "nrext64"),
    (0x40, "exchrange"),
    (0x80, "parent"),
    (0x100, "metadir"),
    (0x200, "zoned"),
    (0x400, "zone_gaps"),
];
const FTYPE: u32 = 0x1;
const META_UUID: u32 = 0x4;
const NEEDS_REPAIR: u32 = 0x10;

/// What can be read. A zoned volume has all its files on the realtime device.
const INCOMPAT_READABLE: u32 = 0x1ff;

/// What is known of a volume before anything else is read.
#[derive(Debug, Clone)]
pub struct Superblock {
    /// log2 of the bytes of a block.
    pub block_log: u32,
    /// log2 of the bytes of an inode.
    pub inode_log: u32,
    /// log2 of the blocks of a directory block.
    pub dir_log: u32,
    /// Blocks in the volume.
    pub blocks: u64,
    /// Allocation groups.
    pub groups: u32,
    /// Blocks in each of them but the last.
    pub group_blocks: u32,
    group_log: u32,
    /// Bytes of a sector: AG headers have one each.
    pub sector_len: u32,
    /// Inode of the topmost directory.
    pub root: u64,
    /// First filesystem block of the log; 0 when it is on a device of its own.
    pub log_start: u64,
    /// Blocks of the log.
    pub log_blocks: u32,
    /// Where the log was when the superblock was last written (v5).
    pub lsn: u64,
    /// Version 5: metadata has checksums, and says where and whose it is.
    pub v5: bool,
    /// Directory entries have the type of their file.
    pub ftype: bool,
    /// Names are hashed without regard to ASCII case.
    pub ascii_ci: bool,
    /// The volume asks for xfs_repair before it is mounted again.
    pub needs_repair: bool,
    /// Bits of `sb_features_log_incompat`.
    pub log_incompat: u32,
    /// Counters are right only after a clean unmount.
    pub lazy_counters: bool,
    /// The volume's UUID, as records of the log have it.
    pub uuid: [u8; 16],
    /// The UUID that metadata has.
    pub meta_uuid: [u8; 16],
    /// Label.
    pub label: Option<String>,
    /// The volume's UUID as people write it.
    pub uuid_text: Option<String>,
    /// Inodes that are allocated, and of them free.
    pub inodes: (u64, u64),
    /// Most space that inodes may have, in hundredths; 0 is no limit.
    pub inodes_percent: u8,
    /// Free blocks.
    pub free_blocks: u64,
    /// The first superblock is damaged, and this is a copy: what changes all the time is old.
    pub is_copy: bool,
}

impl Superblock {
    /// That of `device`; when it is damaged, the copy of it in another allocation group.
    ///
    /// # Errors
    ///
    /// When there is none, all are damaged, or the volume has features that cannot be read.
    pub fn read(device: &(impl ReadAt + ?Sized)) -> Result<Self> {
        match Self::at(device, 0) {
            Err(e) if e.kind() == ErrorKind::Damaged => Self::copy(device).ok_or(e),
            read => read,
        }
    }

    /// A copy of a damaged superblock: where the groups begin is told by what is left of it.
    fn copy(device: &(impl ReadAt + ?Sized)) -> Option<Self> {
        let head = read(device, 0, HEAD).ok().filter(|head| head.starts_with(b"XFSB"))?;
        let (block, blocks, groups) = (be32(&head, 4), be32(&head, 84), be32(&head, 88));
        let len = u64::from(blocks).checked_mul(block.into()).filter(|len| *len > 0)?;
        // mkfs writes the topmost directory into the last and the middle copy; others have it once they were updated.
        let order = [groups.saturating_sub(1), groups / 2].into_iter().chain(1..groups.min(COPIES_MAX));
        let mut copies =
            order.filter(|group| *group > 0).filter_map(|group| Self::at(device, len.checked_mul(group.into())?).ok());
        copies.find(|sb| sb.root <= INODE_MAX && sb.len_of_group() == len).map(|sb| Self {
            is_copy: true,
            // It was right when the copy was written, which may be long ago.
            lsn: u64::MAX,
            ..sb
        })
    }

    /// Bytes of a group.
    const fn len_of_group(&self) -> u64 {
        (self.group_blocks as u64) << self.block_log
    }

    /// The superblock, or the copy of it, at byte `at`.
    fn at(device: &(impl ReadAt + ?Sized), at: u64) -> Result<Self> {
        let head = read(device, at, HEAD)?;
        if !head.starts_with(b"XFSB") {
            return Err(Error::damaged("the volume does not begin with the superblock of an XFS filesystem"));
        }
        let (version, sector_len) = (be16(&head, 100), u32::from(be16(&head, 102)));
        let v5 = match version & VERSION_MASK {
            4 => false,
            5 => true,
            other => return Err(Error::unsupported(format!("XFS of version {other}: 4 and 5 can be read"))),
        };
        if !sector_len.is_power_of_two() || !(512..=32768).contains(&sector_len) {
            return Err(wrong("sector size", u64::from(sector_len)));
        }
        let sector = read(device, at, sector_len as usize)?;
        if v5 && !check::sum_matches(&sector, check::SUPERBLOCK.sum) {
            return Err(Error::damaged("the superblock's checksum does not match: try xfs_repair on a copy"));
        }
        let sb = Self::parse(&sector, v5, version)?;
        sb.checked(&sector, at == 0)
    }

    fn parse(sector: &[u8], v5: bool, version: u16) -> Result<Self> {
        let byte = |at: usize| u32::from(slice(sector, at, 1).first().copied().unwrap_or_default());
        let id = |at: usize| slice(sector, at, 16).try_into().unwrap_or_default();
        // An early Linux wrote the second feature word at a wrong place; both count.
        let more = if v5 || version & MORE_BITS != 0 { be32(sector, 200) | be32(sector, 204) } else { 0 };
        let incompat = if v5 { be32(sector, 216) } else { 0 };
        if incompat & !INCOMPAT_READABLE != 0 {
            let names = feature_names(incompat & !INCOMPAT_READABLE);
            return Err(Error::unsupported(format!("XFS with features that cannot be read: {names}")));
        }
        let uuid_bytes = id(32);
        Ok(Self {
            block_log: byte(120),
            inode_log: byte(122),
            dir_log: byte(192),
            blocks: be64(sector, 8),
            groups: be32(sector, 88),
            group_blocks: be32(sector, 84),
            group_log: byte(124),
            sector_len: u32::from(be16(sector, 102)),
            root: be64(sector, 56),
            log_start: be64(sector, 48),
            log_blocks: be32(sector, 96),
            lsn: if v5 { be64(sector, 240) } else { 0 },
            v5,
            ftype: incompat & FTYPE != 0 || !v5 && more & FTYPE_V4 != 0,
            ascii_ci: version & ASCII_CI != 0,
            needs_repair: incompat & NEEDS_REPAIR != 0,
            log_incompat: if v5 { be32(sector, 220) } else { 0 },
            lazy_counters: more & LAZY_COUNTERS != 0,
            uuid: uuid_bytes,
            meta_uuid: if incompat & META_UUID != 0 { id(248) } else { uuid_bytes },
            label: text(slice(sector, 108, 12)),
            uuid_text: uuid(sector, 32),
            inodes: (be64(sector, 128), be64(sector, 136)),
            inodes_percent: byte(127) as u8,
            free_blocks: be64(sector, 144),
            is_copy: false,
        })
    }

    /// The same, when its numbers agree with each other.
    fn checked(self, sector: &[u8], is_first: bool) -> Result<Self> {
        let wrong_if = |cond: bool, what: &str, value: u64| if cond { Err(wrong(what, value)) } else { Ok(()) };
        let (block_log, inode_log) = (self.block_log, self.inode_log);
        wrong_if(!(9..=16).contains(&block_log), "block size", u64::from(be32(sector, 4)))?;
        wrong_if(be32(sector, 4) != 1 << block_log, "block size", u64::from(be32(sector, 4)))?;
        wrong_if(!(8..=11).contains(&inode_log) || inode_log > block_log, "inode size", u64::from(be16(sector, 104)))?;
        wrong_if(u32::from(be16(sector, 104)) != 1 << inode_log, "inode size", u64::from(be16(sector, 104)))?;
        wrong_if(self.dir_log + block_log > 16, "directory block size", u64::from(self.dir_log))?;
        let (groups, size) = (u64::from(self.groups), u64::from(self.group_blocks));
        wrong_if(groups == 0, "number of allocation groups", groups)?;
        let log = self.group_log;
        wrong_if(size == 0 || log > 31 || size > 1 << log || log > 0 && size <= 1 << (log - 1), "group size", size)?;
        // Both factors have 32 bits.
        wrong_if(self.blocks > groups * size || self.blocks <= (groups - 1) * size, "number of blocks", self.blocks)?;
        wrong_if(self.blocks.checked_mul(1 << block_log).is_none(), "number of blocks", self.blocks)?;
        wrong_if(self.inode_number_bits() > 56, "number of allocation groups", groups)?;
        if be16(sector, 100) & DIRECTORY_V2 == 0 {
            return Err(Error::unsupported("XFS with directories of version 1"));
        }
        // It is reset in the first only.
        if is_first && sector.get(126).is_none_or(|in_progress| *in_progress != 0) {
            return Err(Error::damaged("mkfs.xfs did not finish making this volume"));
        }
        Ok(self)
    }

    const fn inode_number_bits(&self) -> u32 {
        (32 - (self.groups - 1).leading_zeros()) + self.group_log + self.block_log - self.inode_log
    }

    /// Bytes of a block.
    pub const fn block_len(&self) -> u64 {
        1 << self.block_log
    }

    /// Bytes of an inode.
    pub const fn inode_len(&self) -> usize {
        1 << self.inode_log
    }

    /// Bytes of a directory block.
    pub const fn dir_block_len(&self) -> usize {
        1 << (self.block_log + self.dir_log)
    }

    /// Bytes of the volume.
    pub const fn len(&self) -> u64 {
        self.blocks << self.block_log
    }

    /// Blocks of group `number`, which exists.
    fn group_len(&self, number: u64) -> u64 {
        let size = u64::from(self.group_blocks);
        size.min(self.blocks.saturating_sub(number * size))
    }

    /// The byte at which group `number` begins.
    pub const fn group_start(&self, number: u32) -> u64 {
        ((number as u64) * (self.group_blocks as u64)) << self.block_log
    }

    /// The byte at which the `len` blocks from filesystem block `address` on begin.
    ///
    /// # Errors
    ///
    /// When they do not lie in one group.
    pub fn extent(&self, address: u64, len: u64) -> Result<u64> {
        let (group, block) = (address >> self.group_log, address & ((1 << self.group_log) - 1));
        let fits =
            group < u64::from(self.groups) && block.checked_add(len).is_some_and(|end| end <= self.group_len(group));
        if !fits {
            return Err(Error::damaged(format!("{len} blocks at address {address:#x} lie in no allocation group")));
        }
        Ok((group * u64::from(self.group_blocks) + block) << self.block_log)
    }

    /// Where inode `number` lies: its byte, and the bytes of its group.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such place.
    pub fn inode_place(&self, number: u64) -> Result<(u64, std::ops::Range<u64>)> {
        let per_block = self.block_log - self.inode_log;
        let place = (number <= INODE_MAX).then(|| self.extent(number >> per_block, 1));
        let Some(Ok(start)) = place else {
            return Err(Error::not_found(format!("there is no inode {number}")));
        };
        let byte = start + ((number & ((1 << per_block) - 1)) << self.inode_log);
        let group = number >> (per_block + self.group_log);
        let group_start = (group * u64::from(self.group_blocks)) << self.block_log;
        Ok((byte, group_start..group_start + (self.group_len(group) << self.block_log)))
    }

    /// The number of the inode at `index` among those from block `block` of group `group` on.
    pub const fn inode_number(&self, group: u32, block: u32, index: u32) -> u64 {
        let per_block = self.block_log - self.inode_log;
        ((((group as u64) << self.group_log) | block as u64) << per_block) + index as u64
    }
}

fn wrong(what: &str, value: u64) -> Error {
    Error::damaged(format!("the superblock's {what} cannot be {value}: try xfs_repair on a copy"))
}

fn feature_names(bits: u32) -> String {
    let name = |bit: u32| {
        INCOMPAT.iter().find(|(known, _)| *known == bit).map_or(format!("{bit:#x}"), |(_, name)| (*name).to_owned())
    };
    (0..32).map(|n| 1 << n).filter(|bit| bits & bit != 0).map(name).collect::<Vec<_>>().join(", ")
}
