//! Guest offsets to places ("Cluster mapping", "Extended L2 Entries").

use std::sync::Arc;

use super::{
    header::Table,
    unpack::{Compression, unpack},
};
use crate::{
    Error, ReadAt, Result,
    images::{
        layer::{Layer, Place, Run, joined},
        tables::Tables,
    },
};

/// Bits 9 to 55 of an entry of any table: an offset in the file.
pub(super) const OFFSET: u64 = (1 << 56) - (1 << 9);
/// Bit 63: the reference count is one. Says nothing to a reader, but for a cluster at byte 0 of an external data file.
const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of an L2 entry: the cluster reads as zeros. Not in version 2, and not with subclusters.
const ZERO: u64 = 1;

/// Subclusters of a cluster.
const SUBCLUSTERS_BITS: u32 = 5;

/// Unit of the length of a compressed cluster.
const SECTOR: u64 = 512;

/// What all decoding of tables depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// Of the format: 2 or 3.
    pub(super) version: u32,
    /// 9 to 21.
    pub(super) cluster_bits: u32,
    /// L2 entries have 16 bytes and know subclusters.
    pub(super) extended: bool,
    pub(super) compression: Compression,
    /// Guest clusters are in an external data file, each at its guest offset.
    pub(super) external: bool,
}

impl Geometry {
    pub(super) const fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// log2 of the bytes of an L2 entry.
    const fn entry_bits(self) -> u32 {
        if self.extended { 4 } else { 3 }
    }

    /// log2 of the bytes of the disk that one L2 table is about.
    const fn table_bits(self) -> u32 {
        2 * self.cluster_bits - self.entry_bits()
    }

    /// Bytes of the disk that one L2 table is about: 32 KiB to 512 GiB.
    pub(super) const fn bytes_per_table(self) -> u64 {
        1 << self.table_bits()
    }

    /// Tables begin at cluster boundaries.
    pub(super) fn check_aligned(self, offset: u64, what: &str) -> Result<()> {
        if offset.is_multiple_of(self.cluster_size()) {
            return Ok(());
        }
        Err(Error::damaged(format!("{what} is said to be at byte {offset}, which is no cluster boundary")))
    }

    /// The offset in the entry of an L1 table, 0 for none.
    fn l2_table(self, entry: u64, guest: u64) -> Result<u64> {
        let offset = entry & OFFSET;
        if entry & !(OFFSET | COPIED) != 0 || !offset.is_multiple_of(self.cluster_size()) {
            return Err(impossible("L1", entry, guest));
        }
        Ok(offset)
    }

    /// What the L2 entry of the cluster of guest offset `guest`, with its `subclusters` (0 where there are none), says
    /// about the bytes from `guest` on.
    fn place(self, entry: u64, subclusters: u64, guest: u64) -> Result<Run> {
        let cluster_size = self.cluster_size();
        let skip = guest & (cluster_size - 1);
        let rest = cluster_size - skip;
        let damaged = || impossible("L2", entry, guest);
        if entry & COMPRESSED != 0 {
            if self.external {
                return Err(damaged());
            }
            // Bit 63 says nothing; the rest stands for the cluster. A cluster has at most 2 MiB.
            let place = Place::Packed { unit: entry & (COMPRESSED - 1), skip: skip as u32 };
            return Ok(Run { len: rest, place });
        }
        let zero_flag = if self.version >= 3 && !self.extended { ZERO } else { 0 };
        let offset = entry & OFFSET;
        if entry & !(OFFSET | COPIED | zero_flag) != 0 || !offset.is_multiple_of(cluster_size) {
            return Err(damaged());
        }
        let allocated = offset != 0 || (self.external && entry & COPIED != 0);
        if allocated && self.external && offset != guest - skip {
            return Err(damaged());
        }
        let stored = Place::Stored { file: 0, offset: offset + skip };
        if !self.extended {
            let place = match (entry & zero_flag != 0, allocated) {
                (true, _) => Place::Zero,
                (false, true) => stored,
                (false, false) => Place::Absent,
            };
            return Ok(Run { len: rest, place });
        }
        let (here, zero) = (subclusters as u32, (subclusters >> 32) as u32);
        if here & zero != 0 || (here != 0 && !allocated) {
            return Err(damaged());
        }
        let subcluster_bits = self.cluster_bits - SUBCLUSTERS_BITS;
        let first = (skip >> subcluster_bits) as u32;
        let (like, place) = match (here >> first & 1, zero >> first & 1) {
            (1, _) => (here, stored),
            (_, 1) => (zero, Place::Zero),
            _ => (!(here | zero), Place::Absent),
        };
        let end = u64::from(first + (like >> first).trailing_ones()) << subcluster_bits;
        Ok(Run { len: end - skip, place })
    }
}

/// An entry that no writer writes. The remedy is the operator's, for nothing tells what the entry was.
fn impossible(table: &str, entry: u64, guest: u64) -> Error {
    Error::damaged(format!(
        "the {table} entry for byte {guest} of the disk is {entry:#018x}, which is impossible: take another copy of the image"
    ))
}

/// An image, or one of its snapshots, by its L1 table.
pub(super) struct Map {
    tables: Tables,
    geometry: Geometry,
    l1: Table,
    size: u64,
    /// The image itself or its external data file.
    data: [Arc<dyn ReadAt>; 1],
}

impl Map {
    /// The disk of `size` bytes whose L1 table is `l1`.
    pub(super) fn new(
        tables: Tables,
        geometry: Geometry,
        l1: Table,
        size: u64,
        data_file: Option<Arc<dyn ReadAt>>,
    ) -> Self {
        let data = [data_file.unwrap_or_else(|| Arc::clone(tables.file()))];
        Self { tables, geometry, l1, size, data }
    }

    /// Where L2 table number `number`, the one for `guest`, is; 0 when there is none.
    fn l2_table(&self, number: u64, guest: u64) -> Result<u64> {
        // The active table reaches the end of the disk; that of a snapshot need not.
        if number >= u64::from(self.l1.entries) {
            return Ok(0);
        }
        let entry = self.tables.be64(self.l1.offset.saturating_add(number * 8))?;
        self.geometry.l2_table(entry, guest)
    }
}

/// Where the walk through the tables is: neighbouring clusters have neighbouring entries.
struct Walk<'a> {
    map: &'a Map,
    /// Number of an L2 table, and where it is.
    table: Option<(u64, u64)>,
    /// Offset of a sector of an L2 table, and its bytes.
    sector: Option<(u64, [u8; SECTOR as usize])>,
}

impl Walk<'_> {
    /// The bytes from `guest` on, to the end of the cluster or further.
    fn piece(&mut self, guest: u64) -> Result<Run> {
        let geometry = self.map.geometry;
        let number = guest >> geometry.table_bits();
        let table = match self.table {
            Some((known, at)) if known == number => at,
            _ => self.map.l2_table(number, guest)?,
        };
        self.table = Some((number, table));
        let in_table = guest & (geometry.bytes_per_table() - 1);
        if table == 0 {
            return Ok(Run { len: geometry.bytes_per_table() - in_table, place: Place::Absent });
        }
        let at = table + ((in_table >> geometry.cluster_bits) << geometry.entry_bits());
        let entry = self.word(at)?;
        let subclusters = if geometry.extended { self.word(at + 8)? } else { 0 };
        geometry.place(entry, subclusters, guest)
    }

    /// The word at byte `at` of the file, in a table that begins at a sector.
    fn word(&mut self, at: u64) -> Result<u64> {
        let start = at & !(SECTOR - 1);
        let sector = match &mut self.sector {
            Some((known, sector)) if *known == start => sector,
            slot => &mut slot.insert((start, self.map.tables.bytes(start)?)).1,
        };
        let word = sector.get((at - start) as usize..).and_then(<[u8]>::first_chunk);
        Ok(word.map_or(0, |w| u64::from_be_bytes(*w)))
    }
}

impl Layer for Map {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        let mut walk = Walk { map: self, table: None, sector: None };
        joined(offset, limit, self.size, |at| walk.piece(at))
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.data
    }

    fn unpack(&self, unit: u64, out: &mut Vec<u8>) -> Result<()> {
        // "Compressed Clusters Descriptor": the offset's bits, and above them the number of further sectors.
        let offset_bits = 62 - (self.geometry.cluster_bits - 8);
        let offset = unit & ((1 << offset_bits) - 1);
        let sectors = (unit >> offset_bits) + 1;
        // At most two clusters. What is missing behind the end of the file was padding, or is missed below.
        let mut packed = vec![0; (sectors * SECTOR - offset % SECTOR) as usize];
        let n = self.tables.file().read_at(&mut packed, offset)?;
        let packed = packed.get(..n).unwrap_or_default();
        out.resize(self.geometry.cluster_size() as usize, 0);
        unpack(self.geometry.compression, packed, out)
            .map_err(|e| e.context(format_args!("byte {offset} of the image file")))
    }
}
