//! Attributes of nodes in the form that the kernel takes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::node::{Attributes, Freshness, Kind, Node, Time};

/// The kernel's number of the root of a mount; no other node can have it.
pub(super) const ROOT: u64 = 1;

/// Block size that `stat` and `statfs` show.
pub(super) const BLOCK_SIZE: u32 = 4096;

/// How long the kernel may keep what never changes.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// How long it may keep the attributes of a directory, which may still grow.
const SOON: Duration = Duration::from_secs(1);

/// How long the kernel may keep the attributes of a node of this kind.
pub(super) fn attribute_ttl(kind: Kind, node: &Node) -> Duration {
    match (node.inode().freshness(), kind) {
        (Freshness::Now, _) => Duration::ZERO,
        (Freshness::Soon, _) | (_, Kind::Dir) => SOON,
        (Freshness::Lasting, _) => FOREVER,
    }
}

/// How long the kernel may keep the name of a node: elsewhere names are added, never changed.
pub(super) fn entry_ttl(node: &Node) -> Duration {
    match node.inode().freshness() {
        Freshness::Now => Duration::ZERO,
        Freshness::Soon => SOON,
        Freshness::Lasting => FOREVER,
    }
}

/// `attributes` as the kernel takes them, for the node that it knows as `node_id`.
pub(super) fn file_attr(node_id: u64, attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(node_id),
        size: attributes.size,
        blocks: attributes.allocated.div_ceil(512),
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attributes.kind),
        perm: (attributes.permissions & 0o7777) as u16,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: device_number(attributes.rdev),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// What is shown for an entry of a directory whose attributes cannot be read.
pub(super) fn unreadable(node_id: u64, kind: Kind) -> FileAttr {
    let zero = Time::default();
    let attributes = Attributes {
        ino: node_id,
        kind,
        permissions: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: (0, 0),
        size: 0,
        allocated: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
    };
    file_attr(node_id, &attributes)
}

pub(super) const fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Dir => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Socket => FileType::Socket,
    }
}

/// A time that `SystemTime` cannot hold is shown as the epoch.
fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|t| t.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// The kernel's 32-bit form: 12 bits of the major number around the low 8 of the 20 of the minor one.
const fn device_number((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_the_epoch() {
        let at = |seconds, nanos| system_time(Time { seconds, nanos });
        assert_eq!(at(-1, 250_000_000), UNIX_EPOCH - Duration::from_millis(750));
        assert_eq!(at(1 << 33, 1), UNIX_EPOCH + Duration::new(1 << 33, 1));
        // The ends of the range must not panic.
        let _ = (at(i64::MIN, u32::MAX), at(i64::MAX, u32::MAX));
    }

    #[test]
    fn device_numbers_as_the_kernel_decodes_them() {
        assert_eq!(device_number((8, 1)), 0x801);
        assert_eq!(device_number((0xabc, 0x12345)), 0x123a_bc45);
    }
}
