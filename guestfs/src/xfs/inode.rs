//! Inodes: what is in the 96 (version 2) or 176 (version 3) bytes at their start, and where their two forks are.
//!
//! The rest of an inode is the *data fork*, and behind it, at `di_forkoff` times eight bytes, the *attribute fork*. A
//! fork has a device number, the content itself, extent records, or the root of a tree of them. ("On-disk Inode".)

use std::{ops::Range, sync::Arc};

use blockdev::{
    Error, Result,
    fields::{be16, be32, be64, slice},
};

use super::{check, superblock::Superblock};
use crate::{Kind, Metadata, Time};

/// Where the forks begin, by the inode's version.
pub const fn core_len(v5: bool) -> usize {
    if v5 { 176 } else { 100 }
}

/// Offset of the checksum in an inode of version 3.
pub const SUM: usize = 100;

/// Bits of `di_flags` and of `di_flags2`.
const REALTIME: u16 = 0x1;
const BIGTIME: u64 = 0x8;
const LARGE_COUNTERS: u64 = 0x10;

/// Bigtime counts from the earliest second of 32 bits.
const BIGTIME_EPOCH: i64 = -(1 << 31);

/// What a fork has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A device number.
    Device,
    /// The content itself.
    Local,
    /// Extent records, so many.
    Extents(u64),
    /// The root of a tree of extent records.
    Tree,
}

/// A fork: its format and its bytes in the inode.
#[derive(Debug, Clone)]
pub struct Fork {
    /// The format.
    pub format: Format,
    cluster: Arc<[u8]>,
    range: Range<usize>,
}

impl Fork {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.cluster.get(self.range.clone()).unwrap_or_default()
    }
}

/// An inode.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Its number.
    pub number: u64,
    /// Its type.
    pub kind: Kind,
    /// Length of the content.
    pub size: u64,
    /// Whether the content is on the realtime device.
    pub realtime: bool,
    /// Content, entries, target.
    pub data: Fork,
    /// Attributes.
    pub attributes: Option<Fork>,
    cluster: Arc<[u8]>,
    at: usize,
}

impl Inode {
    /// Inode `number` in `cluster` from byte `at` on.
    ///
    /// # Errors
    ///
    /// `NotFound` when it is free; `Damaged` when it contradicts itself.
    pub fn parse(sb: &Superblock, number: u64, cluster: Arc<[u8]>, at: usize) -> Result<Self> {
        let wrong = |what: &str| Error::damaged(format!("inode {number} {what}"));
        let core = slice(&cluster, at, sb.inode_len());
        if core.len() < sb.inode_len() || !core.starts_with(b"IN") {
            return Err(wrong("is none: its magic number is wrong"));
        }
        if sb.v5 {
            if !check::sum_matches(core, SUM) {
                return Err(wrong("does not match its checksum"));
            }
            if slice(core, 160, 16) != sb.meta_uuid || be64(core, 152) != number {
                return Err(wrong("says that it is another one"));
            }
        }
        let version = byte(core, 4);
        if sb.v5 != (version == 3) || !(1..=3).contains(&version) {
            return Err(wrong(&format!("has version {version}")));
        }
        let mode = be16(core, 2);
        if mode == 0 {
            return Err(Error::not_found(format!("inode {number} is free")));
        }
        let kind = kind(mode).ok_or_else(|| wrong(&format!("has the unknown type of mode {mode:#o}")))?;
        let size = be64(core, 56);
        if size >> 63 != 0 {
            return Err(wrong(&format!("has a length of {size} bytes")));
        }
        let large = be64(core, 120) & LARGE_COUNTERS != 0 && sb.v5;
        let counts = if large {
            (be64(core, 24), u64::from(be32(core, 76)))
        } else {
            (u64::from(be32(core, 76)), u64::from(be16(core, 80)))
        };
        let forks = core_len(sb.v5)..sb.inode_len();
        let split = match usize::from(byte(core, 82)) {
            0 => forks.end,
            offset => forks.start + offset * 8,
        };
        if split > forks.end {
            return Err(wrong("has its attributes behind its end"));
        }
        let fork = |format: u8, count: u64, range: Range<usize>| {
            let format = match format {
                0 => Format::Device,
                1 => Format::Local,
                2 if count > range.len() as u64 / 16 => return Err(wrong("has more extents than room for them")),
                2 => Format::Extents(count),
                3 => Format::Tree,
                other => return Err(wrong(&format!("has a fork of the unknown format {other}"))),
            };
            Ok(Fork { format, cluster: Arc::clone(&cluster), range: at + range.start..at + range.end })
        };
        let data = fork(byte(core, 5), counts.0, forks.start..split)?;
        // An attribute fork that was never used says nothing of its format.
        let attributes = match split < forks.end {
            true => Some(fork(byte(core, 83), counts.1, split..forks.end)?),
            false => None,
        };
        let realtime = kind == Kind::File && be16(core, 90) & REALTIME != 0;
        Ok(Self { number, kind, size, realtime, data, attributes, at, cluster: Arc::clone(&cluster) })
    }

    /// What `stat` says.
    pub fn metadata(&self, sb: &Superblock) -> Metadata {
        let core = slice(&self.cluster, self.at, sb.inode_len());
        let big = sb.v5 && be64(core, 120) & BIGTIME != 0;
        // Version 1 has its number of links where later ones have zeros.
        let nlink = if byte(core, 4) == 1 { u32::from(be16(core, 6)) } else { be32(core, 16) };
        Metadata {
            kind: self.kind,
            permissions: u32::from(be16(core, 2)) & 0o7777,
            nlink,
            uid: be32(core, 8),
            gid: be32(core, 12),
            rdev: self.device_number(),
            size: self.size,
            allocated: be64(core, 64).saturating_mul(sb.block_len()),
            accessed: time(core, 32, big),
            modified: time(core, 40, big),
            changed: time(core, 48, big),
            created: sb.v5.then(|| time(core, 144, big)),
        }
    }

    /// Major and minor number: 14 and 18 bits, as IRIX had them.
    fn device_number(&self) -> (u32, u32) {
        match self.data.format {
            Format::Device => {
                let number = be32(self.data.bytes(), 0);
                (number >> 18 & 0x3fff, number & 0x3_ffff)
            }
            _ => (0, 0),
        }
    }
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

fn kind(mode: u16) -> Option<Kind> {
    Some(match mode >> 12 {
        0o01 => Kind::Fifo,
        0o02 => Kind::CharDevice,
        0o04 => Kind::Dir,
        0o06 => Kind::BlockDevice,
        0o10 => Kind::File,
        0o12 => Kind::Symlink,
        0o14 => Kind::Socket,
        _ => return None,
    })
}

fn time(core: &[u8], at: usize, big: bool) -> Time {
    if big {
        let nanos = be64(core, at);
        let seconds = (nanos / 1_000_000_000) as i64 + BIGTIME_EPOCH;
        return Time { seconds, nanos: (nanos % 1_000_000_000) as u32 };
    }
    let seconds = i64::from(be32(core, at).cast_signed());
    Time { seconds, nanos: be32(core, at + 4).min(999_999_999) }
}
