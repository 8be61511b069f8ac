//! Volumes of a thin pool: the kernel's `dm-thin` metadata (`drivers/md/dm-thin-metadata.c`, `persistent-data`).
//!
//! A superblock names two B-trees: from a device's number to the root of its own tree, which goes from block to block of
//! the pool's data. Every block of metadata has a checksum and its own number; a node is checked when it is read and kept
//! in a cache bounded in bytes.

use std::sync::Arc;

use crc_fast::{CrcAlgorithm, checksum};
use quick_cache::sync::Cache;

use super::super::raid::Area;
use crate::{
    BlockDevice, Error, Result,
    fields::{le32, le64, read},
    images::layer::{Place, Run},
};

/// A block of metadata.
const BLOCK: u64 = 4096;
const MAGIC: u64 = 27_022_010;
/// What the kernel mixes into the checksums of superblocks and of nodes.
const SUPERBLOCK_SALT: u32 = 160_774;
const NODE_SALT: u32 = 121_107;
/// The superblock's flag that the pool has to be checked before it is used.
const NEEDS_CHECK: u32 = 1;
const NODE_HEADER: usize = 32;
const LEAF: u32 = 2;
/// Nodes from the root to a leaf: with 126 keys or more in a node, ten reach further than any disk.
const DEPTH_MAX: usize = 16;
/// Nodes of a pool that are kept: 1 MiB. A leaf tells of 16 MiB of a volume or more.
const NODES_KEPT: usize = 256;
/// Blocks of the pool that one run joins at most.
const JOINED_MAX: u64 = 1 << 20;

/// A thin pool's metadata.
pub struct Pool {
    metadata: Arc<dyn BlockDevice>,
    nodes: Cache<u64, Arc<[u8]>>,
    /// Bytes of a block of the pool's data.
    block_size: u64,
    mapping_root: u64,
    /// Whether the kernel found faults that nobody has repaired.
    pub needs_check: bool,
}

fn sum(block: &[u8], salt: u32) -> u32 {
    !(checksum(CrcAlgorithm::Crc32Iscsi, block.get(4..).unwrap_or_default()) as u32) ^ salt
}

impl Pool {
    /// The pool whose metadata is on `metadata`.
    pub fn open(metadata: Arc<dyn BlockDevice>) -> Result<Self> {
        let block = read(metadata.as_ref(), 0, BLOCK as usize)?;
        let damaged =
            |what: &str| Error::damaged(format!("the thin pool's superblock {what}: repair it with thin_repair"));
        if le64(&block, 32) != MAGIC || le32(&block, 0) != sum(&block, SUPERBLOCK_SALT) {
            return Err(damaged("fails its checksum"));
        }
        if le32(&block, 360) != 0 {
            return Err(Error::unsupported("the thin pool has features that are not known here"));
        }
        let block_size = u64::from(le32(&block, 336)) * 512;
        if !(64 << 10..=1 << 30).contains(&block_size) {
            return Err(damaged("has blocks of a size that cannot be"));
        }
        Ok(Self {
            metadata,
            nodes: Cache::new(NODES_KEPT),
            block_size,
            mapping_root: le64(&block, 320),
            needs_check: le32(&block, 4) & NEEDS_CHECK != 0,
        })
    }

    fn node(&self, number: u64) -> Result<Arc<[u8]>> {
        self.nodes.get_or_insert_with(&number, || {
            let block = read(self.metadata.as_ref(), number.saturating_mul(BLOCK), BLOCK as usize)?;
            let (entries, max) = (le32(&block, 16) as usize, le32(&block, 20) as usize);
            let fits = max.checked_mul(16).is_some_and(|n| n <= BLOCK as usize - NODE_HEADER) && entries <= max;
            // Both trees have values of eight bytes.
            let is_node =
                le32(&block, 0) == sum(&block, NODE_SALT) && le64(&block, 8) == number && le32(&block, 24) == 8;
            if !is_node || !fits {
                let at = number.saturating_mul(BLOCK);
                return Err(Error::damaged(format!("the thin pool's metadata block at byte {at} fails its checksum")));
            }
            Ok(block.into())
        })
    }

    /// Goes from `root` to the leaf where `key` is or would be.
    fn find(&self, root: u64, key: u64) -> Result<Leaf> {
        let (mut number, mut end) = (root, u64::MAX);
        for _ in 0..DEPTH_MAX {
            let node = self.node(number)?;
            let count = le32(&node, 16) as usize;
            // The first key that is larger.
            let next = partition(count, |i| key_of(&node, i) <= key);
            if next < count {
                end = end.min(key_of(&node, next));
            }
            let Some(at) = next.checked_sub(1) else { return Ok(Leaf { node, at: None, end }) };
            if le32(&node, 4) & LEAF != 0 {
                let at = (key_of(&node, at) == key).then_some(at);
                return Ok(Leaf { node, at, end });
            }
            number = value_of(&node, at);
        }
        Err(Error::damaged("the thin pool's metadata loops: repair it with thin_repair"))
    }
}

/// Where a key was looked for.
struct Leaf {
    node: Arc<[u8]>,
    /// Its entry.
    at: Option<usize>,
    /// The next key that there is.
    end: u64,
}

fn key_of(node: &[u8], i: usize) -> u64 {
    le64(node, NODE_HEADER + i * 8)
}

fn value_of(node: &[u8], i: usize) -> u64 {
    le64(node, NODE_HEADER + le32(node, 20) as usize * 8 + i * 8)
}

/// The first of `0..count` for which `before` does not hold.
fn partition(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// A volume of a pool.
pub struct Thin {
    pool: Arc<Pool>,
    root: u64,
    data: Area,
    /// What shows through where nothing was written.
    origin: Option<Area>,
}

impl Thin {
    /// Volume number `device` of `pool`, whose data is in `data`.
    pub fn open(pool: Arc<Pool>, device: u64, data: Area, origin: Option<Area>) -> Result<Self> {
        let leaf = pool.find(pool.mapping_root, device)?;
        let at = leaf.at.ok_or_else(|| Error::damaged(format!("the thin pool has no volume of number {device}")))?;
        Ok(Self { root: value_of(&leaf.node, at), pool, data, origin })
    }

    /// The run at `at`, of at most about `limit` bytes.
    pub fn run_at(&self, at: u64, limit: u64) -> Result<Run> {
        let unit = self.pool.block_size;
        let (block, within) = (at / unit, at % unit);
        let leaf = self.pool.find(self.root, block)?;
        let bytes = |blocks: u64| blocks.saturating_mul(unit).saturating_sub(within).min(limit);
        let Some(index) = leaf.at else {
            let len = bytes(leaf.end.saturating_sub(block));
            let origin = self.origin.as_ref().filter(|o| at < o.len);
            return origin.map_or(Ok(Run { len, place: Place::Zero }), |o| o.run(at, len));
        };
        // A value is a block of the data and, in 24 bits, when it was written.
        let data = |i: usize| value_of(&leaf.node, i) >> 24;
        let first = data(index);
        let wanted = limit.saturating_add(within).div_ceil(unit).min(JOINED_MAX);
        let count = le32(&leaf.node, 16) as usize;
        let joined = (1..wanted).zip(index + 1..count).take_while(|(n, i)| {
            key_of(&leaf.node, *i) == block.saturating_add(*n) && data(*i) == first.saturating_add(*n)
        });
        let blocks = 1 + joined.count() as u64;
        self.data.run(first.saturating_mul(unit).saturating_add(within), bytes(blocks))
    }
}
