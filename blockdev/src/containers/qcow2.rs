//! A disk as a qcow2 file (QEMU, `docs/interop/qcow2.rst`), version 3, clusters of 64 KiB.
//!
//! Header cluster, L1 table, refcount table, refcount blocks, the L2 tables in use, the clusters that are stored. Every
//! cluster of the file is in use once, so all refcounts are 1.
//!
//! A delta on a backing file holds the clusters that were touched since; one of them that has become zeros is not
//! stored, its L2 entry says so.

use std::{ops::Range, sync::Arc};

use super::{
    allocation::Allocation,
    put,
    sections::Sections,
    tables::{Entries, Numbered, Table, UnitEntries},
    units::{Source, Units},
};
use crate::{BlockDevice, Error, Result, images::Format};

const CLUSTER_BITS: u32 = 16;
/// Bytes of a cluster.
pub const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of an L2 table, and entries of the refcount table in a cluster.
const L2_ENTRIES: u64 = CLUSTER / 8;
/// Refcounts (16 bits) in a block.
const REFCOUNTS: u64 = CLUSTER / 2;
/// 2 PiB: the longest L1 table that QEMU opens has 32 MiB.
const SIZE_MAX: u64 = (32 << 20) / 8 * L2_ENTRIES * CLUSTER;
/// The longest name of a backing file.
const BACKING_NAME_MAX: usize = 1023;

/// L1 and L2 entry: refcount is exactly 1.
const COPIED: u64 = 1 << 63;
/// L2 entry: reads zeros, whatever the backing file has.
const ZERO: u64 = 1;

const HEADER_LENGTH: usize = 104;
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// The image file that a delta is based on.
#[derive(Debug, Clone)]
pub struct Backing {
    /// Its file name, which is looked for beside the delta.
    pub name: String,
    /// Its format.
    pub format: Format,
}

/// The whole of `disk` as a qcow2 file.
///
/// # Errors
///
/// When the disk cannot tell its extents or is larger than 2 PiB.
pub fn open(disk: &Arc<dyn BlockDevice>) -> Result<Sections> {
    let size = size_of_disk(disk)?;
    let allocation = Arc::new(Allocation::of(disk.as_ref(), CLUSTER)?);
    layout(disk, size, Arc::clone(&allocation), allocation, None)
}

/// What has changed of `disk` since the state in `backing`, as a qcow2 file.
///
/// `disk` is the whole disk as it is now, and `changed` the ascending byte ranges that were written since; clusters of
/// which no byte was changed are left to the backing file.
///
/// # Errors
///
/// As [`open`]; and when a range is not in order, or the name of the backing file is none.
pub fn delta(
    disk: &Arc<dyn BlockDevice>,
    changed: &mut dyn Iterator<Item = Result<Range<u64>>>,
    backing: &Backing,
) -> Result<Sections> {
    let size = size_of_disk(disk)?;
    let touched = Arc::new(Allocation::touched(changed, CLUSTER, disk.size())?);
    let stored = Arc::new(touched.with_data(disk.as_ref(), CLUSTER)?);
    layout(disk, size, touched, stored, Some(backing))
}

fn size_of_disk(disk: &Arc<dyn BlockDevice>) -> Result<u64> {
    super::size_within(disk, SIZE_MAX, "a qcow2 file has at most 2 PiB", "raw")
}

/// The file that says something about the clusters in `touched`, and stores those in `stored`.
fn layout(
    disk: &Arc<dyn BlockDevice>,
    size: u64,
    touched: Arc<Allocation>,
    stored: Arc<Allocation>,
    backing: Option<&Backing>,
) -> Result<Sections> {
    // Some programs want at least one, even of an empty disk.
    let l1_entries = size.div_ceil(CLUSTER).div_ceil(L2_ENTRIES).max(1);
    let tables = Arc::new(touched.grouped(L2_ENTRIES));

    // Where everything is, in clusters. The refcounts count themselves.
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
    let others = 1 + l1_clusters + tables.total() + stored.total();
    let (mut refcount_table, mut blocks) = (0, 0);
    let clusters = loop {
        let clusters = others + refcount_table + blocks;
        let needed = clusters.div_ceil(REFCOUNTS);
        if needed == blocks {
            break clusters;
        }
        blocks = needed;
        refcount_table = blocks.div_ceil(L2_ENTRIES);
    };
    let l1_at = CLUSTER;
    let refcount_table_at = l1_at + l1_clusters * CLUSTER;
    let blocks_at = refcount_table_at + refcount_table * CLUSTER;
    let l2_at = blocks_at + blocks * CLUSTER;
    let data_at = l2_at + tables.total() * CLUSTER;

    let mut header = header(backing)?;
    put(&mut header, 24, &size.to_be_bytes());
    put(&mut header, 36, &(l1_entries as u32).to_be_bytes());
    put(&mut header, 40, &l1_at.to_be_bytes());
    put(&mut header, 48, &refcount_table_at.to_be_bytes());
    put(&mut header, 56, &(refcount_table as u32).to_be_bytes());

    let mut file = Sections::new();
    file.put(0, header)?;
    let l1 = move |rank: u64| ((l2_at + rank * CLUSTER) | COPIED).to_be_bytes();
    file.put(l1_at, unit_table(&tables, l1_entries, l1))?;
    let block = move |number: u64| (blocks_at + number * CLUSTER).to_be_bytes();
    file.put(refcount_table_at, Table::<8, _>(Numbered { count: blocks, entry: block }))?;
    file.put(blocks_at, Table::<2, _>(Numbered { count: clusters, entry: |_| 1_u16.to_be_bytes() }))?;
    let source = Source::new(Arc::clone(disk));
    let entries = L2 { tables, touched, stored: Arc::clone(&stored), data_at };
    file.put(l2_at, Table::<8, _>(entries))?;
    file.put(data_at, Units::new(source, stored, CLUSTER, Vec::new()))?;
    Ok(file.ending_at(clusters * CLUSTER))
}

/// The header and its extensions; sizes and places are still missing.
fn header(backing: Option<&Backing>) -> Result<Vec<u8>> {
    let mut header = vec![0; HEADER_LENGTH];
    put(&mut header, 0, b"QFI\xfb");
    put(&mut header, 4, &3_u32.to_be_bytes());
    put(&mut header, 20, &CLUSTER_BITS.to_be_bytes());
    // 1 << 4 bits for each refcount.
    put(&mut header, 96, &4_u32.to_be_bytes());
    put(&mut header, 100, &(HEADER_LENGTH as u32).to_be_bytes());
    let Some(backing) = backing else {
        header.extend([0; 8]);
        return Ok(header);
    };
    let name = backing.name.as_bytes();
    // QEMU takes what is before a colon for a protocol.
    if name.is_empty() || name.len() > BACKING_NAME_MAX || name.contains(&0) || name.contains(&b':') {
        return Err(Error::invalid(format!("{:?} cannot be the name of a backing file", backing.name)));
    }
    let format = match backing.format {
        Format::Vhd => "vpc",
        format => format.name(),
    };
    header.extend(BACKING_FORMAT.to_be_bytes());
    header.extend((format.len() as u32).to_be_bytes());
    header.extend(format.bytes());
    header.resize(header.len().next_multiple_of(8), 0);
    header.extend([0; 8]);
    let name_at = header.len() as u64;
    header.extend(name);
    put(&mut header, 8, &name_at.to_be_bytes());
    put(&mut header, 16, &(name.len() as u32).to_be_bytes());
    Ok(header)
}

fn unit_table<F>(allocation: &Arc<Allocation>, count: u64, stored: F) -> Table<8, UnitEntries<8, F>> {
    Table(UnitEntries { allocation: Arc::clone(allocation), count, absent: [0; 8], stored })
}

/// The L2 tables in use, one after another.
struct L2 {
    tables: Arc<Allocation>,
    touched: Arc<Allocation>,
    stored: Arc<Allocation>,
    data_at: u64,
}

impl L2 {
    /// The clusters that the entries `first..first + count` are for, as far as they follow each other.
    fn clusters(&self, first: u64, count: u64) -> Option<Range<u64>> {
        let (tables, _) = self.tables.stored_from(first / L2_ENTRIES).next()?;
        let start = tables.start * L2_ENTRIES + first % L2_ENTRIES;
        Some(start..(tables.end * L2_ENTRIES).min(start + count))
    }
}

impl Entries<8> for L2 {
    fn count(&self) -> u64 {
        self.tables.total() * L2_ENTRIES
    }

    fn fill(&self, first: u64, out: &mut [u8]) {
        let mut entries = out.chunks_exact_mut(8);
        let mut first = first;
        while entries.len() > 0 {
            let Some(clusters) = self.clusters(first, entries.len() as u64) else { return };
            first += clusters.end - clusters.start;
            // What is stored was touched: runs of both begin and end where those of `touched` do, or within them.
            for run in self.touched.runs(clusters) {
                for part in self.stored.runs(run.units) {
                    for (cluster, entry) in (0..part.units.end - part.units.start).zip(&mut entries) {
                        let value = match (run.rank, part.rank) {
                            (_, Some(rank)) => (self.data_at + (rank + cluster) * CLUSTER) | COPIED,
                            (Some(_), None) => ZERO,
                            (None, None) => 0,
                        };
                        entry.copy_from_slice(&value.to_be_bytes());
                    }
                }
            }
        }
    }

    fn zeros(&self, first: u64) -> u64 {
        let left = self.count().saturating_sub(first);
        let Some(clusters) = self.clusters(first, left) else { return 0 };
        self.touched.absent(clusters.start).min(clusters.end - clusters.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_else_are_refused() {
        for name in ["", "nbd:host:1", "a\0b", &"x".repeat(1024)] {
            assert!(header(Some(&Backing { name: name.to_owned(), format: Format::Qcow2 })).is_err(), "{name:?}");
        }
        let header = header(Some(&Backing { name: "base.qcow2".to_owned(), format: Format::Qcow2 })).unwrap();
        assert!(header.ends_with(b"base.qcow2"));
    }
}
