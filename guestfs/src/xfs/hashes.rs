//! The hash tree that directories and attributes share ("da btree"): nodes above blocks with hashes.
//!
//! All its blocks begin with a header of 12 bytes (next, previous, magic number), in version 5 of 56 with what describes
//! the block. Version 5 has magic numbers of its own. ("Directory/Attribute Block Header", "Node Directories".)

use std::sync::Arc;

use blockdev::{
    Error, Result,
    fields::{be16, be32},
};

use super::{
    check::{self, Fields},
    map::Map,
    volume::Volume,
};

/// Levels of nodes.
const LEVELS_MAX: u16 = 5;

const NODE_V4: u16 = 0xfebe;
const DIR_LEAF1_V4: u16 = 0xd2f1;
const DIR_LEAFN_V4: u16 = 0xd2ff;
const ATTR_LEAF_V4: u16 = 0xfbee;

/// What a block of the tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A node.
    Node,
    /// A block with hashes of a directory.
    DirLeaf,
    /// A block with attributes.
    AttrLeaf,
}

/// Which kind a block with `magic` is, with its description in version 5.
fn kind(v5: bool, magic: u16) -> Option<(Kind, Option<&'static Fields>)> {
    if !v5 {
        return match magic {
            NODE_V4 => Some((Kind::Node, None)),
            DIR_LEAF1_V4 | DIR_LEAFN_V4 => Some((Kind::DirLeaf, None)),
            ATTR_LEAF_V4 => Some((Kind::AttrLeaf, None)),
            _ => None,
        };
    }
    let kinds = [
        (Kind::Node, &check::DA_NODE),
        (Kind::DirLeaf, &check::DIR_LEAF1),
        (Kind::DirLeaf, &check::DIR_LEAFN),
        (Kind::AttrLeaf, &check::ATTR_LEAF),
    ];
    kinds.into_iter().find(|(_, f)| f.magic == check::Magic::Da(magic)).map(|(kind, fields)| (kind, Some(fields)))
}

/// A block of the tree.
pub struct Block {
    /// Its bytes.
    pub bytes: Arc<[u8]>,
    /// What it is.
    pub kind: Kind,
    v5: bool,
}

impl Block {
    /// Bytes of the header that all blocks have.
    pub const fn header_len(&self) -> usize {
        if self.v5 { 56 } else { 12 }
    }

    /// Entries that the block says it has.
    pub fn count(&self) -> usize {
        usize::from(be16(&self.bytes, self.header_len()))
    }

    /// Block of the fork that goes on after this one; 0 is none.
    pub fn next(&self) -> u64 {
        u64::from(be32(&self.bytes, 0))
    }

    /// The entries of a node or of a block with hashes of a directory: a hash and where it leads, ascending.
    ///
    /// # Errors
    ///
    /// When there are more than there is room for.
    pub fn entries(&self) -> Result<&[[u8; 8]]> {
        let at = if self.v5 { 64 } else { 16 };
        let all = self.bytes.get(at..).unwrap_or_default().as_chunks::<8>().0;
        all.get(..self.count()).ok_or_else(|| Error::damaged("a block of hashes says that it has more than fit"))
    }
}

/// The hash in an entry.
pub fn hash_of(entry: &[u8; 8]) -> u32 {
    be32(entry, 0)
}

/// Where an entry leads.
pub fn target_of(entry: &[u8; 8]) -> u32 {
    be32(entry, 4)
}

/// The block `block` of the fork `map`, of `len` bytes.
///
/// # Errors
///
/// When there is none, or it is not a block of a hash tree.
pub fn block(volume: &Volume, map: &Map, block: u64, len: usize) -> Result<Block> {
    let v5 = volume.sb.v5;
    let damaged = |what: &str| Error::damaged(format!("inode {}: block {block} of its hash tree {what}", map.owner()));
    let bytes = volume.mapped(map, block, len, |bytes, place| match kind(v5, be16(bytes, 8)) {
        Some((_, Some(fields))) => fields.verify(&volume.sb, bytes, place, map.owner()),
        _ => Ok(()),
    })?;
    let bytes = bytes.ok_or_else(|| damaged("does not exist"))?;
    let magic = be16(&bytes, 8);
    let (kind, _) = kind(v5, magic).ok_or_else(|| damaged(&format!("has the wrong magic number {magic:#06x}")))?;
    Ok(Block { bytes, kind, v5 })
}

/// The block, of kind `leaf`, that has the first entry with `hash` if there is one: from block `root` down. For the hash
/// 0 that is the first of all.
///
/// # Errors
///
/// When the tree cannot be read; `None` when all hashes are smaller.
pub fn descend(volume: &Volume, map: &Map, root: u64, len: usize, leaf: Kind, hash: u32) -> Result<Option<Block>> {
    let damaged = |what: &str| Error::damaged(format!("inode {}: its hash tree {what}", map.owner()));
    let mut node = block(volume, map, root, len)?;
    let mut above = LEVELS_MAX + 1;
    while node.kind == Kind::Node {
        let level = be16(&node.bytes, node.header_len() + 2);
        if level >= above || level == 0 {
            return Err(damaged(&format!("has level {level} below level {above}")));
        }
        above = level;
        // Each entry has the greatest hash of its child.
        let entries = node.entries()?;
        let Some(chosen) = entries.get(entries.partition_point(|entry| hash_of(entry) < hash)) else {
            return Ok(None);
        };
        let child = u64::from(target_of(chosen));
        node = block(volume, map, child, len)?;
    }
    if node.kind == leaf { Ok(Some(node)) } else { Err(damaged("ends in a block of another kind")) }
}

/// The hash of a name.
pub fn hash(name: &[u8]) -> u32 {
    // The kernel takes four bytes at once; it comes to the same.
    name.iter().fold(0_u32, |hash, byte| hash.rotate_left(7) ^ u32::from(*byte))
}
