//! A node of a B-tree: a header, then keys with items (leaf) or keys with places of nodes.
//!
//! All that can be checked without knowing the tree is checked once, when a node is read: checksum, place, order of the
//! keys, and that items lie within it. What its parent says of it (level, generation, first and last key) is checked on
//! each way down, so that trees cannot have loops: levels go down, and keys go up.

use blockdev::{
    Error, Result,
    fields::{le32, le64, slice},
};

use super::{
    checksum::Checksum,
    key::Key,
    superblock::{Superblock, uuid},
};

const HEADER: usize = 101;
/// Key, offset and size of an item's data.
const ITEM: usize = 25;
/// Key, place and generation of a node.
const POINTER: usize = 33;
/// The highest level there is (`BTRFS_MAX_LEVEL` - 1).
const LEVEL_MAX: u8 = 7;

/// Where a node is, and what is known of it before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    /// Its logical address.
    pub logical: u64,
    /// The transaction that wrote it: an older one there is left over from a write that never came.
    pub generation: u64,
    /// 0 for a leaf.
    pub level: u8,
}

/// What all nodes of a filesystem have in common.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    pub len: usize,
    pub checksum: Checksum,
    pub fsid: [u8; 16],
}

impl Format {
    pub const fn of(superblock: &Superblock) -> Self {
        Self { len: superblock.node as usize, checksum: superblock.checksum, fsid: superblock.node_fsid }
    }
}

/// A node that is sound in itself.
pub struct Node {
    bytes: Box<[u8]>,
    level: u8,
    count: usize,
}

impl Node {
    /// `bytes`, read from where `at` says.
    ///
    /// # Errors
    ///
    /// `Damaged` when they are not that node.
    pub fn check(bytes: Box<[u8]>, at: Pointer, format: &Format) -> Result<Self> {
        let wrong = |what: &str| Err(Error::damaged(format!("the node at logical address {} {what}", at.logical)));
        if bytes.len() < HEADER || !format.checksum.matches(slice(&bytes, 32, format.len - 32), &bytes) {
            return wrong("does not match its checksum");
        }
        if le64(&bytes, 48) != at.logical || uuid(&bytes, 32) != format.fsid {
            return wrong("belongs elsewhere");
        }
        if le64(&bytes, 80) != at.generation {
            return wrong("is of another generation than its parent says");
        }
        let level = slice(&bytes, 100, 1).first().copied().unwrap_or(0);
        if level != at.level || level > LEVEL_MAX {
            return wrong("is of another level than its parent says");
        }
        let count = le32(&bytes, 96) as usize;
        let room = bytes.len() - HEADER;
        let width = if level == 0 { ITEM } else { POINTER };
        let head = count.checked_mul(width).filter(|head| *head <= room);
        let Some(head) = head else { return wrong("has more items than there is room for") };
        let node = Self { bytes, level, count };
        let mut before = None;
        for index in 0..count {
            let key = node.key(index);
            if before.is_some_and(|before| before >= key) {
                return wrong("has keys that are not in order");
            }
            before = Some(key);
            if level == 0 {
                let (start, len) = node.place(index);
                if start < head || start.saturating_add(len) > room {
                    return wrong("has an item that does not lie in it");
                }
            }
        }
        Ok(node)
    }

    /// Whether it is what `at` says.
    pub fn is_at(&self, at: Pointer) -> bool {
        self.level == at.level && le64(&self.bytes, 80) == at.generation
    }

    /// Bytes in memory.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub const fn level(&self) -> u8 {
        self.level
    }

    /// Items or nodes in it.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The key of item or child `index`.
    pub fn key(&self, index: usize) -> Key {
        let width = if self.level == 0 { ITEM } else { POINTER };
        Key::read(&self.bytes, HEADER.saturating_add(index.saturating_mul(width)))
    }

    /// The first index whose key is not below `key`; the count when all are.
    pub fn position(&self, key: Key) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < key { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Child `index` of a node that is no leaf.
    pub fn child(&self, index: usize) -> Pointer {
        let at = HEADER.saturating_add(index.saturating_mul(POINTER)) + Key::LEN;
        Pointer {
            logical: le64(&self.bytes, at),
            generation: le64(&self.bytes, at + 8),
            level: self.level.saturating_sub(1),
        }
    }

    /// The data of item `index` of a leaf.
    pub fn item(&self, index: usize) -> &[u8] {
        let (start, len) = self.place(index);
        slice(&self.bytes, HEADER.saturating_add(start), len)
    }

    /// Where the data of item `index` begins, behind the header, and its length.
    fn place(&self, index: usize) -> (usize, usize) {
        let at = HEADER.saturating_add(index.saturating_mul(ITEM)) + Key::LEN;
        (le32(&self.bytes, at) as usize, le32(&self.bytes, at + 4) as usize)
    }
}
