//! Where everything lies in an overlay file: plain arithmetic from the size of the disk.
//!
//! ```text
//! cluster 0   header
//!             L1 table
//!             refcount table
//!             refcount blocks, all of them
//!             L2 tables, all of them
//!             data clusters, in the order in which they were first written
//! ```
//!
//! All tables have their place, and the L1 and refcount tables their final content, when the file is made; what is not
//! used of them is a hole and takes no room. (For a disk of 1 TiB: 128 MiB of L2 tables and 4 MiB of refcount blocks,
//! 16 KiB of them stored.) So the only metadata that ever changes are L2 entries and the refcounts of data clusters, and
//! no table in the file has to be believed: its content must be what this module says, or the file is refused.

use crate::{Error, Result};

/// log2 of [`CLUSTER`].
pub const CLUSTER_BITS: u32 = 17;
/// Bytes of a cluster.
pub const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Bytes of a subcluster: the unit that is present or not, 1/32 of a cluster.
pub const SUBCLUSTER: u64 = CLUSTER / 32;
/// Bytes of an extended L2 entry.
pub const ENTRY: u64 = 16;
/// Bytes of an L2 table that are read, kept and written together.
pub const PAGE: u64 = 4096;
/// L2 entries of a page.
pub const PAGE_ENTRIES: usize = (PAGE / ENTRY) as usize;
/// Bytes of the disk that a page tells of (32 MiB).
pub const PAGE_SPAN: u64 = PAGE_ENTRIES as u64 * CLUSTER;
/// Set in an L1 or L2 entry whose cluster has a refcount of exactly one.
pub const COPIED: u64 = 1 << 63;
/// Set in an L2 entry whose cluster is compressed.
pub const COMPRESSED: u64 = 1 << 62;
/// The bits of an L1 or L2 entry that are an offset in the file.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Bytes of the disk that one L2 table tells of (1 GiB).
const L2_SPAN: u64 = CLUSTER / ENTRY * CLUSTER;
/// Refcounts in a refcount block.
const BLOCK_REFCOUNTS: u64 = CLUSTER / 2;
/// The largest disk: bounds all sums here, and QEMU opens the tables of such a disk.
const SIZE_MAX: u64 = 1 << 50;

/// Offsets and counts of everything but data, in bytes and clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Size of the disk, a multiple of 512.
    pub size: u64,
    /// Entries of the L1 table.
    pub l2_tables: u64,
    /// Offset of the L1 table.
    pub l1: u64,
    /// Offset of the refcount table.
    pub refcount_table: u64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u64,
    /// Offset of the refcount blocks.
    pub refcount_blocks: u64,
    /// How many refcount blocks there are.
    pub blocks: u64,
    /// Offset of the L2 tables.
    pub l2: u64,
    /// Offset of the first data cluster.
    pub data: u64,
}

impl Layout {
    /// The layout for a disk of `size` bytes, rounded up to a sector: QEMU counts in sectors.
    ///
    /// # Errors
    ///
    /// `Unsupported` above 1 PiB.
    pub fn new(size: u64) -> Result<Self> {
        if size > SIZE_MAX {
            return Err(Error::unsupported(format!("an overlay holds disks of up to 1 PiB, not of {size} bytes")));
        }
        let size = size.next_multiple_of(512);
        let l2_tables = size.div_ceil(L2_SPAN).max(1);
        let l1_clusters = (l2_tables * 8).div_ceil(CLUSTER);
        let others = 1 + l1_clusters + l2_tables + size.div_ceil(CLUSTER);
        // The refcount blocks count themselves, so their number is found by trying. One is spare: for clusters that a
        // loss of power made unreachable.
        let (mut blocks, mut refcount_table_clusters) = (0, 0);
        loop {
            let enough = (others + refcount_table_clusters + blocks).div_ceil(BLOCK_REFCOUNTS) + 1;
            if enough <= blocks {
                break;
            }
            blocks = enough;
            refcount_table_clusters = (blocks * 8).div_ceil(CLUSTER);
        }
        let l1 = CLUSTER;
        let refcount_table = l1 + l1_clusters * CLUSTER;
        let refcount_blocks = refcount_table + refcount_table_clusters * CLUSTER;
        let l2 = refcount_blocks + blocks * CLUSTER;
        let data = l2 + l2_tables * CLUSTER;
        Ok(Self { size, l2_tables, l1, refcount_table, refcount_table_clusters, refcount_blocks, blocks, l2, data })
    }

    /// Where the refcount of the cluster at file offset `host` lies: the blocks are one array.
    #[must_use]
    pub const fn refcount_of(&self, host: u64) -> u64 {
        self.refcount_blocks + host / CLUSTER * 2
    }

    /// The length that the file can never exceed: that for which there are refcounts.
    #[must_use]
    pub const fn end_max(&self) -> u64 {
        self.blocks * BLOCK_REFCOUNTS * CLUSTER
    }

    /// Where page `number` of the L2 tables lies: the tables are one array too.
    #[must_use]
    pub const fn page(&self, number: u64) -> u64 {
        self.l2 + number * PAGE
    }

    /// The L1 table as it must be.
    #[must_use]
    pub fn l1_table(&self) -> Vec<u8> {
        table(self.l2, self.l2_tables, COPIED)
    }

    /// The refcount table as it must be.
    #[must_use]
    pub fn refcounts_table(&self) -> Vec<u8> {
        table(self.refcount_blocks, self.blocks, 0)
    }
}

fn table(first: u64, count: u64, flags: u64) -> Vec<u8> {
    (0..count).flat_map(|i| ((first + i * CLUSTER) | flags).to_be_bytes()).collect()
}

/// Where a subcluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In the cluster's place in the file.
    Stored,
    /// It is zeros.
    Zero,
    /// In the base.
    Absent,
}

/// An extended L2 entry: a cluster of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// Offset in the file of the cluster's place; 0 while it has none.
    pub host: u64,
    /// A bit for each subcluster that is stored there.
    pub stored: u32,
    /// A bit for each subcluster that is zeros.
    pub zero: u32,
}

impl Entry {
    /// What subcluster `sub` is, and how many from it on are the same.
    #[must_use]
    pub const fn run(self, sub: u32) -> (Kind, u32) {
        let stored = self.stored >> sub;
        let zero = self.zero >> sub;
        if stored & 1 == 1 {
            (Kind::Stored, stored.trailing_ones())
        } else if zero & 1 == 1 {
            (Kind::Zero, zero.trailing_ones())
        } else {
            let rest = 32 - sub;
            let present = (stored | zero).trailing_zeros();
            (Kind::Absent, if present < rest { present } else { rest })
        }
    }

    /// As it is in the file.
    #[must_use]
    pub fn encode(self) -> [u8; ENTRY as usize] {
        let place = if self.host == 0 { 0 } else { self.host | COPIED };
        let bits = u64::from(self.zero) << 32 | u64::from(self.stored);
        let mut bytes = [0; ENTRY as usize];
        let (first, second) = bytes.split_at_mut(8);
        first.copy_from_slice(&place.to_be_bytes());
        second.copy_from_slice(&bits.to_be_bytes());
        bytes
    }

    /// From the file, where data clusters are at `data..end`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(bytes: [u8; ENTRY as usize], data: u64, end: u64) -> std::result::Result<Self, &'static str> {
        let both = u128::from_be_bytes(bytes);
        let (place, bits) = ((both >> 64) as u64, both as u64);
        let entry = Self { host: place & OFFSET_MASK, stored: bits as u32, zero: (bits >> 32) as u32 };
        if place & COMPRESSED != 0 {
            Err("is compressed, which another program has done: convert the file with qemu-img")
        } else if place & !(OFFSET_MASK | COPIED) != 0 || (entry.host != 0) != (place & COPIED != 0) {
            Err("has flags that make no sense, or is shared with a snapshot")
        } else if entry.host != 0 && (!entry.host.is_multiple_of(CLUSTER) || !(data..end).contains(&entry.host)) {
            Err("is said to lie outside the file's data")
        } else if entry.stored & entry.zero != 0 || (entry.host == 0 && entry.stored != 0) {
            Err("is said to be stored, and zeros or nowhere, at once")
        } else {
            Ok(entry)
        }
    }
}

/// The bits of subclusters `from..to` (at most 32).
#[must_use]
pub const fn bits(from: u32, to: u32) -> u32 {
    (((1_u64 << to) - 1) & !((1_u64 << from) - 1)) as u32
}
