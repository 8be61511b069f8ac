//! From blocks of a fork to blocks of the volume: extent records in the inode, or a B+tree of them.
//!
//! A record has 128 bits: unwritten (1), block of the fork (54), filesystem block (52), blocks (21). The tree's root is
//! in the inode; its blocks have `BMAP` or, with checksums, `BMA3`. ("Data Extents", "B+tree Extent List".)

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use blockdev::{
    Error, Result,
    fields::{be16, be32, be64},
};

use super::{
    check,
    inode::{Fork, Format},
    volume::Volume,
};

/// Bytes of a record, and of a key with its pointer.
const RECORD: usize = 16;

/// Levels of the tree: a block of 1 KiB has 60 children, and there are fewer than 2^54 blocks.
const LEVELS_MAX: u16 = 9;

/// Where a run of a fork's blocks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// From this byte of the volume on.
    Stored(u64),
    /// Nowhere: never written, or not yet.
    Zero,
    /// Nowhere, and no extent.
    Hole,
}

/// A run of a fork's blocks that lies together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Blocks, never 0.
    pub len: u64,
    /// Where they are.
    pub target: Target,
}

/// The map of a fork. The records that were needed last are kept: reading in order does not walk the tree again.
pub struct Map {
    owner: u64,
    fork: Fork,
    last: Mutex<Option<Leaf>>,
}

/// Records that lie together, and the blocks of the fork that they say everything of.
#[derive(Clone)]
struct Leaf {
    covers: Range<u64>,
    block: Arc<[u8]>,
    at: usize,
    count: usize,
}

impl Map {
    /// That of `fork` of inode `owner`.
    ///
    /// # Errors
    ///
    /// When the fork has no extents.
    pub fn new(owner: u64, fork: &Fork) -> Result<Self> {
        match fork.format {
            Format::Extents(_) | Format::Tree => Ok(Self { owner, fork: fork.clone(), last: Mutex::default() }),
            _ => Err(Error::damaged(format!("inode {owner} has no extents where its type needs them"))),
        }
    }

    /// The inode that it belongs to.
    pub const fn owner(&self) -> u64 {
        self.owner
    }

    /// Where block `block` of the fork, and those after it, are.
    ///
    /// # Errors
    ///
    /// When the tree is damaged, or says a place that is none.
    pub fn at(&self, volume: &Volume, block: u64) -> Result<Mapping> {
        match self.fork.format {
            Format::Extents(count) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                self.among(volume, self.fork.bytes(), count, u64::MAX, block)
            }
            _ => {
                let leaf = self.leaf(volume, block)?;
                let records = leaf.block.get(leaf.at..).unwrap_or_default();
                self.among(volume, records, leaf.count, leaf.covers.end, block)
            }
        }
    }

    /// Where `block` is by the first `count` of `records`, which say everything up to block `end`.
    fn among(&self, volume: &Volume, records: &[u8], count: usize, end: u64, block: u64) -> Result<Mapping> {
        let records = &records.as_chunks::<RECORD>().0;
        let records = records.get(..count).unwrap_or(records);
        let next = records.partition_point(|record| Record::of(record).from <= block);
        if let Some(record) = next.checked_sub(1).and_then(|n| records.get(n)).map(|bytes| Record::of(bytes))
            && let skip = block - record.from
            && skip < record.len
        {
            let len = record.len - skip;
            let start = volume.sb.extent(record.start, record.len).map_err(|e| e.context(self.name()))?;
            let target =
                if record.unwritten { Target::Zero } else { Target::Stored(start + (skip << volume.sb.block_log)) };
            return Ok(Mapping { len, target });
        }
        let end = records.get(next).map_or(end, |bytes| Record::of(bytes).from);
        match end.checked_sub(block) {
            Some(len @ 1..) => Ok(Mapping { len, target: Target::Hole }),
            _ => Err(Error::damaged(format!("{}: its extents are not in order", self.name()))),
        }
    }

    /// The leaf of the tree that says where `block` is.
    fn leaf(&self, volume: &Volume, block: u64) -> Result<Leaf> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = last().as_ref().filter(|leaf| leaf.covers.contains(&block)) {
            return Ok(leaf.clone());
        }
        // Others read on meanwhile.
        let leaf = self.walk(volume, block)?;
        *last() = Some(leaf.clone());
        Ok(leaf)
    }

    /// Descends from the root to the leaf.
    fn walk(&self, volume: &Volume, block: u64) -> Result<Leaf> {
        // The root: level, number of records, then keys and pointers, each for as many as there is room for.
        let root = self.fork.bytes();
        let mut level = be16(root, 0);
        if !(1..=LEVELS_MAX).contains(&level) {
            return Err(Error::damaged(format!("{} has an extent tree of {level} levels", self.name())));
        }
        let (mut child, mut covers) = self.child(root, 4, usize::from(be16(root, 2)), block, 0..u64::MAX)?;
        loop {
            let node = self.node(volume, child)?;
            level -= 1;
            if be16(&node, 4) != level {
                let found = be16(&node, 4);
                return Err(Error::damaged(format!(
                    "{}: level {found} in its extent tree where level {level} must be",
                    self.name()
                )));
            }
            let (at, count) = (header_len(volume.sb.v5), usize::from(be16(&node, 6)));
            if count > (node.len() - at) / RECORD {
                return Err(Error::damaged(format!("{}: {count} records in a block of its extent tree", self.name())));
            }
            if level == 0 {
                return Ok(Leaf { covers, block: node, at, count });
            }
            (child, covers) = self.child(&node, at, count, block, covers)?;
        }
    }

    /// The child that is to be asked for `block`, and the blocks that it says everything of: keys from byte `at` of
    /// `node` on, then pointers.
    fn child(&self, node: &[u8], at: usize, count: usize, block: u64, covers: Range<u64>) -> Result<(u64, Range<u64>)> {
        let room = node.len().saturating_sub(at) / RECORD;
        if count == 0 || count > room {
            return Err(Error::damaged(format!("{}: {count} children in a node of its extent tree", self.name())));
        }
        let keys = node.get(at..at + count * 8).unwrap_or_default().as_chunks::<8>().0;
        let next = keys.partition_point(|key| u64::from_be_bytes(*key) <= block);
        let chosen = next.saturating_sub(1);
        let start = if chosen == 0 { covers.start } else { be64(node, at + chosen * 8) };
        let end = keys.get(next.max(1)).map_or(covers.end, |key| u64::from_be_bytes(*key));
        let within = start.max(covers.start)..end.min(covers.end);
        if !within.contains(&block) {
            return Err(Error::damaged(format!("{}: its extent tree is not in order", self.name())));
        }
        Ok((be64(node, at + (room + chosen) * 8), within))
    }

    fn node(&self, volume: &Volume, address: u64) -> Result<Arc<[u8]>> {
        let sb = &volume.sb;
        let place = sb.extent(address, 1).map_err(|e| e.context(self.name()))?;
        volume.blocks.get(place, sb.block_len() as usize, |bytes| match sb.v5 {
            true => check::MAP.verify(sb, bytes, place, self.owner),
            false if bytes.starts_with(b"BMAP") => Ok(()),
            false => Err(Error::damaged(format!(
                "{}: the block of its extent tree at byte {place} has the wrong magic number {:#010x}",
                self.name(),
                be32(bytes, 0)
            ))),
        })
    }

    fn name(&self) -> String {
        format!("inode {}", self.owner)
    }
}

/// Bytes before the records of a block of the tree.
pub const fn header_len(v5: bool) -> usize {
    if v5 { 72 } else { 24 }
}

/// An extent record.
struct Record {
    from: u64,
    start: u64,
    len: u64,
    unwritten: bool,
}

impl Record {
    fn of(bytes: &[u8; RECORD]) -> Self {
        let (high, low) = (be64(bytes, 0), be64(bytes, 8));
        Self {
            from: high << 1 >> 10,
            start: (high & 0x1ff) << 43 | low >> 21,
            len: low & 0x1f_ffff,
            unwritten: high >> 63 != 0,
        }
    }
}
