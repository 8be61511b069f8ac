//! Inode items.

use blockdev::{
    Error, Result,
    fields::{le32, le64},
};

use crate::{Kind, Metadata, Time};

/// Bytes of an inode item.
const LEN: usize = 160;
/// The inode's data has no checksums.
const NO_DATA_SUM: u64 = 1;
const NANOS_MAX: u32 = 999_999_999;

/// What is used of an inode item.
#[derive(Debug, Clone, Copy)]
pub struct Inode {
    pub kind: Kind,
    pub size: u64,
    bytes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u32,
    rdev: u64,
    flags: u64,
    accessed: Time,
    changed: Time,
    modified: Time,
    created: Time,
}

impl Inode {
    pub fn parse(item: &[u8]) -> Result<Self> {
        if item.len() < LEN {
            return Err(Error::damaged(format!("has an inode item of {} bytes", item.len())));
        }
        let time = |at| Time { seconds: le64(item, at).cast_signed(), nanos: le32(item, at + 8).min(NANOS_MAX) };
        let mode = le32(item, 52);
        let kind = kind_of_mode(mode).ok_or_else(|| Error::damaged(format!("has the mode {mode:o}")))?;
        Ok(Self {
            kind,
            size: le64(item, 16),
            bytes: le64(item, 24),
            nlink: le32(item, 40),
            uid: le32(item, 44),
            gid: le32(item, 48),
            mode,
            rdev: le64(item, 56),
            flags: le64(item, 64),
            accessed: time(112),
            changed: time(124),
            modified: time(136),
            created: time(148),
        })
    }

    /// Whether its data is without checksums.
    pub const fn has_no_sums(&self) -> bool {
        self.flags & NO_DATA_SUM != 0
    }

    /// With what is allocated rounded up to sectors of `sector` bytes, as the kernel does.
    pub fn metadata(&self, sector: u32) -> Metadata {
        // As the kernel counts inside: 20 bits for the minor number.
        let rdev = ((self.rdev >> 20) as u32 & 0xfff, self.rdev as u32 & 0xf_ffff);
        let has_device = matches!(self.kind, Kind::CharDevice | Kind::BlockDevice);
        Metadata {
            kind: self.kind,
            permissions: self.mode & 0o7777,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: if has_device { rdev } else { (0, 0) },
            size: self.size,
            allocated: self.bytes.checked_next_multiple_of(sector.into()).unwrap_or(self.bytes),
            accessed: self.accessed,
            modified: self.modified,
            changed: self.changed,
            // Kernels before 3.18 left it zero.
            created: (self.created != Time::default()).then_some(self.created),
        }
    }
}

/// The type in a Unix mode.
const fn kind_of_mode(mode: u32) -> Option<Kind> {
    Some(match mode >> 12 {
        0o1 => Kind::Fifo,
        0o2 => Kind::CharDevice,
        0o4 => Kind::Dir,
        0o6 => Kind::BlockDevice,
        0o10 => Kind::File,
        0o12 => Kind::Symlink,
        0o14 => Kind::Socket,
        _ => return None,
    })
}

/// The type in a directory entry (`BTRFS_FT_*`); the highest bit says that the guest encrypted the name.
pub const fn kind_of_entry(number: u8) -> Option<Kind> {
    Some(match number & 0x7f {
        1 => Kind::File,
        2 => Kind::Dir,
        3 => Kind::CharDevice,
        4 => Kind::BlockDevice,
        5 => Kind::Fifo,
        6 => Kind::Socket,
        7 => Kind::Symlink,
        _ => return None,
    })
}
