//! Keys: what items of a B-tree are sorted and found by.

use blockdev::fields::{le64, slice};

/// The key of an item: an object, the kind of the item, and an offset whose meaning the kind decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Mostly an inode number or the number of a tree.
    pub object: u64,
    /// One of [`kind`].
    pub kind: u8,
    /// What it says depends on the kind.
    pub offset: u64,
}

impl Key {
    /// Bytes on disk.
    pub const LEN: usize = 17;
    /// Above all others.
    pub const MAX: Self = Self::new(u64::MAX, u8::MAX, u64::MAX);

    pub const fn new(object: u64, kind: u8, offset: u64) -> Self {
        Self { object, kind, offset }
    }

    /// The key at `at` of `bytes`.
    pub fn read(bytes: &[u8], at: usize) -> Self {
        let kind = slice(bytes, at + 8, 1).first().copied().unwrap_or(0);
        Self { object: le64(bytes, at), kind, offset: le64(bytes, at + 9) }
    }

    /// The next key there could be.
    pub const fn next(self) -> Option<Self> {
        match (self.offset.checked_add(1), self.kind.checked_add(1), self.object.checked_add(1)) {
            (Some(offset), ..) => Some(Self { offset, ..self }),
            (None, Some(kind), _) => Some(Self { kind, offset: 0, ..self }),
            (None, None, Some(object)) => Some(Self { object, kind: 0, offset: 0 }),
            (None, None, None) => None,
        }
    }

    /// The key before.
    pub const fn previous(self) -> Option<Self> {
        match (self.offset.checked_sub(1), self.kind.checked_sub(1), self.object.checked_sub(1)) {
            (Some(offset), ..) => Some(Self { offset, ..self }),
            (None, Some(kind), _) => Some(Self { kind, offset: u64::MAX, ..self }),
            (None, None, Some(object)) => Some(Self { object, kind: u8::MAX, offset: u64::MAX }),
            (None, None, None) => None,
        }
    }

    /// Whether it is of this object and kind.
    pub const fn is(&self, object: u64, kind: u8) -> bool {
        self.object == object && self.kind == kind
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} {} {})", self.object, self.kind, self.offset)
    }
}

/// Kinds of items (`btrfs_tree.h`, `BTRFS_*_KEY`).
pub mod kind {
    pub const INODE_ITEM: u8 = 1;
    pub const INODE_REF: u8 = 12;
    pub const INODE_EXTREF: u8 = 13;
    pub const XATTR_ITEM: u8 = 24;
    pub const DIR_LOG_INDEX: u8 = 72;
    pub const DIR_ITEM: u8 = 84;
    pub const DIR_INDEX: u8 = 96;
    pub const EXTENT_DATA: u8 = 108;
    pub const EXTENT_CSUM: u8 = 128;
    pub const ROOT_ITEM: u8 = 132;
    pub const ROOT_REF: u8 = 156;
    pub const DEV_ITEM: u8 = 216;
    pub const CHUNK_ITEM: u8 = 228;
}

/// Objects with a fixed number (`btrfs_tree.h`, `BTRFS_*_OBJECTID`).
pub mod object {
    /// The top level subvolume.
    pub const FS_TREE: u64 = 5;
    /// The tree of data checksums.
    pub const CSUM_TREE: u64 = 7;
    /// The device items of the chunk tree.
    pub const DEV_ITEMS: u64 = 1;
    /// The chunk items of the chunk tree.
    pub const FIRST_CHUNK_TREE: u64 = 256;
    /// The first number of subvolumes and inodes: the root directory of each subvolume.
    pub const FIRST_FREE: u64 = 256;
    /// The last number of subvolumes and inodes.
    pub const LAST_FREE: u64 = -256_i64 as u64;
    /// The checksum items of the checksum tree.
    pub const EXTENT_CSUM: u64 = -10_i64 as u64;
    /// The log trees in the tree of log trees.
    pub const TREE_LOG: u64 = -6_i64 as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_neighbours() {
        let key = Key::new(256, kind::DIR_INDEX, 7);
        assert!(Key::new(256, kind::DIR_ITEM, u64::MAX) < key && key < Key::new(257, 0, 0));
        assert_eq!(key.next(), Some(Key::new(256, kind::DIR_INDEX, 8)));
        let last = Key::new(1, u8::MAX, u64::MAX);
        assert_eq!(last.next(), Some(Key::new(2, 0, 0)));
        assert_eq!(Key::new(2, 0, 0).previous(), Some(last));
        assert_eq!((Key::MAX.next(), Key::new(0, 0, 0).previous()), (None, None));
        assert_eq!(Key::new(1, 3, u64::MAX).next().and_then(Key::previous), Some(Key::new(1, 3, u64::MAX)));
    }
}
