//! Looking a name up in the hash tree of a directory ("Hash Tree Directories").
//!
//! Block 0 is the root: behind `.` and `..`, whose entries cover it all for those who do not know, is what the tree is
//! like and its topmost node. A node says from which hash on the names are in which block, which is another node or a
//! block of entries.

use std::{fmt, ops::ControlFlow, sync::Arc};

use blockdev::{
    Result,
    fields::{le16, le32, slice},
};

use super::{
    checksum::{self, Crc32c},
    directory::Directory,
    dirhash::Function,
    features, inode,
};

/// Bytes of an entry of a node. The first has no hash, but the number of entries and how many there can be.
const ENTRY: usize = 8;
/// Where the entries begin in a node below the root, and in the root.
const NODE_FIRST: usize = 8;
const ROOT_FIRST: usize = 32;

/// What a tree says of a name.
pub enum Found {
    /// Its inode.
    Inode(u32),
    /// There is none.
    Nothing,
    /// The tree is odd, or its function cannot be computed: all entries have to be looked at.
    Unknown,
}

/// A node on the way to the block with a name.
struct Node {
    block: Arc<[u8]>,
    first: usize,
    count: usize,
    /// The entry that was taken.
    at: usize,
}

impl Node {
    /// The node whose entries begin at `first`; none when it cannot be one.
    fn new(block: Arc<[u8]>, first: usize) -> Option<Self> {
        let (max, count) = (usize::from(le16(&block, first)), usize::from(le16(&block, first + 2)));
        let is_sound = (1..=max).contains(&count) && first + max * ENTRY <= block.len();
        is_sound.then_some(Self { block, first, count, at: 0 })
    }

    fn entries(&self) -> &[[u8; ENTRY]] {
        slice(&self.block, self.first, self.count * ENTRY).as_chunks().0
    }

    /// Takes the last entry that is not above `hash`.
    fn seek(&mut self, hash: u32) {
        let others = self.entries().get(1..).unwrap_or_default();
        self.at = others.partition_point(|entry| le32(entry, 0) <= hash);
    }

    /// The block of the entry that was taken.
    fn child(&self) -> u64 {
        // The highest four bits were kept for a measure of how full the block is.
        self.entries().get(self.at).map_or(0, |entry| u64::from(le32(entry, 4) & 0x0fff_ffff))
    }

    /// Takes the next entry, and gives its hash; none at the end.
    fn next(&mut self) -> Option<u32> {
        let hash = le32(self.entries().get(self.at + 1)?, 0);
        self.at += 1;
        Some(hash)
    }
}

/// The function of the tree with the root `block`.
pub fn function(block: &[u8]) -> Option<Function> {
    // A reserved word, the function, the length of these fields, levels, flags.
    let info = slice(block, ROOT_FIRST - 8, 8);
    let is_sound = le32(info, 0) == 0 && info.get(5) == Some(&8) && info.get(7).is_some_and(|flags| flags & 1 == 0);
    info.get(4).filter(|_| is_sound).and_then(|version| Function::from_version(*version))
}

/// Nothing, when the node in `block`, called `what`, has the right checksum. It is behind the last possible entry.
pub fn check(block: &[u8], seed: Crc32c, what: fmt::Arguments<'_>) -> Result<()> {
    let first = if le16(block, 4) == 12 { ROOT_FIRST } else { NODE_FIRST };
    let (max, count) = (usize::from(le16(block, first)), usize::from(le16(block, first + 2)));
    let tail = slice(block, first + max * ENTRY, 8);
    if (tail.len() < 8 || count > max) && !cfg!(fuzzing) {
        return Err(checksum::wrong(what));
    }
    let sum = seed.add_range(block, 0..first + count * ENTRY).add(slice(tail, 0, 4)).add(&[0; 4]);
    checksum::expect(le32(tail, 4), sum.value(), what)
}

/// What the tree of `directory`, which has one, says of `name`.
///
/// # Errors
///
/// When a block on the way cannot be read or is damaged.
pub fn find(directory: &Directory, name: &[u8]) -> Result<Found> {
    let Some(root) = directory.block(0)? else { return Ok(Found::Unknown) };
    let superblock = &directory.volume().superblock;
    let levels = root.get(30).copied().map_or(0, usize::from);
    let levels_max = if superblock.features.incompatible(features::LARGEDIR) { 3 } else { 2 };
    let folded;
    let hashed = if directory.inode().is(inode::CASEFOLDED) {
        // Folding what is not ASCII takes tables of one version of Unicode.
        folded = name.to_ascii_lowercase();
        Some(folded.as_slice()).filter(|name| name.is_ascii())
    } else {
        Some(name)
    };
    let (Some(function), Some(hashed), true) = (function(&root), hashed, levels <= levels_max) else {
        return Ok(Found::Unknown);
    };
    let hash = superblock.hashing.hash(function, hashed).major;
    let Some(mut top) = Node::new(root, ROOT_FIRST) else { return Ok(Found::Unknown) };
    top.seek(hash);
    let mut path = vec![top];
    loop {
        if !descend(directory, &mut path, levels, hash)? {
            return Ok(Found::Unknown);
        }
        let mut found = None;
        directory.walk_block(path.last().map_or(0, Node::child), |entry| {
            if directory.name(entry).as_ref() != name {
                return ControlFlow::Continue(());
            }
            found = Some(entry.inode);
            ControlFlow::Break(())
        })?;
        if let Some(inode) = found {
            return Ok(Found::Inode(inode));
        }
        // The names of one hash may go on in the next block.
        let next = loop {
            let Some(last) = path.last_mut() else { return Ok(Found::Nothing) };
            match last.next() {
                Some(next) => break next,
                None => path.pop(),
            };
        };
        if next & !1 != hash {
            return Ok(Found::Nothing);
        }
    }
}

/// Goes on from the last node of `path` to the one above the entries with `hash`, `levels` below the root. False when a
/// node on the way is none.
fn descend(directory: &Directory, path: &mut Vec<Node>, levels: usize, hash: u32) -> Result<bool> {
    loop {
        // Block 0 is the root and nobody's child.
        let child = path.last().map_or(0, Node::child);
        if child == 0 || path.len() > levels {
            return Ok(child != 0);
        }
        let node = directory.block(child)?.and_then(|block| Node::new(block, NODE_FIRST));
        let Some(mut node) = node else { return Ok(false) };
        node.seek(hash);
        path.push(node);
    }
}
