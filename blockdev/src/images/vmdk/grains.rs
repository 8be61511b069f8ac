//! What all sparse extents have in common: grains, found through a directory of grain tables.
//!
//! A *grain* is the unit of allocation. A grain table has an entry for each of so many grains, and the grain directory
//! has an entry for each table. The kinds of extents differ in the width and meaning of the entries, which is what a
//! [`Grains`] knows; walking them, and joining grains that lie together, is done here.

use crate::{
    Error, Result,
    images::{
        layer::{Place, Run},
        tables::Tables,
    },
};

/// Bytes of a sector, the unit of all numbers in a VMDK.
pub(super) const SECTOR: u64 = 512;

/// Sectors that a disk or an extent may have (32 PiB; VMware's own limit is 62 TiB): what keeps all arithmetic on
/// offsets of the disk far from overflowing.
pub(super) const SECTORS_MAX: u64 = 1 << 46;

/// Entries of tables and directories that one call looks at: the bound of its time.
const LOOKUPS_MAX: u32 = 1 << 16;

/// Where a grain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    /// Not in this extent.
    Absent,
    /// Zeros.
    Zero,
    /// As it is at this byte of the extent's file.
    Stored(u64),
    /// Compressed at this byte of the extent's file.
    Packed(u64),
}

/// Where the entries of a grain table are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Table<'a> {
    /// Nowhere: all its grains are the same.
    All(Grain),
    /// At this byte of the extent's file.
    At(u64),
    /// In memory, as an extent had to be put together again; what is behind its end is lost.
    Held(&'a [u32]),
}

/// A kind of sparse extent.
pub(super) trait Grains {
    /// Bytes of an entry of a grain table, a divisor of a sector.
    const ENTRY: usize;

    /// Index of the extent's file.
    fn file(&self) -> u32;

    /// Bytes of a grain; not 0.
    fn grain_size(&self) -> u64;

    /// Entries of a grain table; not 0.
    fn per_table(&self) -> u64;

    /// Grain table `number`, by the grain directory.
    fn table(&self, tables: &Tables, number: u64) -> Result<Table<'_>>;

    /// What the [`ENTRY`](Self::ENTRY) bytes of an entry mean.
    fn grain(&self, entry: &[u8]) -> Result<Grain>;
}

/// Where grain `number` is.
pub(super) fn grain_at<M: Grains>(map: &M, tables: &Tables, number: u64) -> Result<Grain> {
    let index = number % map.per_table();
    match map.table(tables, number / map.per_table())? {
        Table::All(grain) => Ok(grain),
        Table::At(at) => Sectors { map, tables, table: at }.entries(index)?.first(map),
        Table::Held(held) => held_grain(map, held, index),
    }
}

/// The run at `offset` of an extent of `size` bytes: as [`Layer::run_at`](crate::images::layer::Layer::run_at), with
/// the number of the grain as the unit of a packed place.
pub(super) fn run_at<M: Grains>(map: &M, tables: &Tables, size: u64, offset: u64, limit: u64) -> Result<Run> {
    let grain_size = map.grain_size();
    let skip = offset % grain_size;
    let mut joined = Joined {
        grain_size,
        next: offset / grain_size,
        first: None,
        len: 0,
        wanted: skip.saturating_add(limit),
        lookups: LOOKUPS_MAX,
    };
    let first_number = joined.next;
    while joined.wants_more() && joined.next.saturating_mul(grain_size) < size {
        let whole = match add_table(map, tables, &mut joined) {
            Ok(whole) => whole,
            // A bad entry spoils its own grain and none before.
            Err(_) if joined.first.is_some() => break,
            Err(e) => return Err(e),
        };
        if !whole {
            break;
        }
    }
    let place = match joined.first {
        None | Some(Grain::Absent) => Place::Absent,
        Some(Grain::Zero) => Place::Zero,
        Some(Grain::Stored(at)) => Place::Stored { file: map.file(), offset: at }.advanced(skip),
        // What can be packed is no larger than 2 MiB.
        Some(Grain::Packed(_)) => Place::Packed { unit: first_number, skip: u32::try_from(skip).unwrap_or(u32::MAX) },
    };
    Ok(Run { len: joined.len.saturating_sub(skip).min(size.saturating_sub(offset)), place })
}

/// Add what is left of the table that the next grain is in. `false` when the run ends in it.
fn add_table<M: Grains>(map: &M, tables: &Tables, joined: &mut Joined) -> Result<bool> {
    let per_table = map.per_table();
    let mut index = joined.next % per_table;
    match map.table(tables, joined.next / per_table)? {
        Table::All(grain) => return Ok(joined.add(grain, per_table - index)),
        Table::At(table) => {
            let sectors = Sectors { map, tables, table };
            while index < per_table && joined.wants_more() {
                let entries = sectors.entries(index)?;
                for entry in entries.rest().chunks_exact(M::ENTRY) {
                    if index >= per_table || !joined.wants_more() {
                        break;
                    }
                    if !joined.add(map.grain(entry)?, 1) {
                        return Ok(false);
                    }
                    index += 1;
                }
            }
        }
        Table::Held(held) => {
            while index < per_table && joined.wants_more() {
                if !joined.add(held_grain(map, held, index)?, 1) {
                    return Ok(false);
                }
                index += 1;
            }
        }
    }
    Ok(true)
}

fn held_grain<M: Grains>(map: &M, held: &[u32], index: u64) -> Result<Grain> {
    let entry = usize::try_from(index).ok().and_then(|i| held.get(i)).ok_or_else(lost)?;
    map.grain(&entry.to_le_bytes())
}

/// The failure to find what was behind the place where an extent was cut off.
pub(super) fn lost() -> Error {
    Error::damaged(
        "the image was cut off, and this part of the disk was behind the cut: restore it from another backup",
    )
}

/// The product of a number of sectors and [`SECTOR`].
pub(super) fn sectors(number: u64) -> Result<u64> {
    number.checked_mul(SECTOR).ok_or_else(|| {
        Error::damaged(format!("a table is said to lie at sector {number}, which no file can have: it is damaged"))
    })
}

/// Grains that lie together.
struct Joined {
    grain_size: u64,
    /// The number of the next grain.
    next: u64,
    first: Option<Grain>,
    /// Bytes so far, from the start of the first grain on.
    len: u64,
    /// Bytes that are of interest.
    wanted: u64,
    lookups: u32,
}

impl Joined {
    fn wants_more(&self) -> bool {
        self.len < self.wanted && self.lookups > 0
    }

    /// Add `count` grains, the next of which is `grain`. `false` when it does not belong to the run.
    fn add(&mut self, grain: Grain, count: u64) -> bool {
        let fits = match (self.first, grain) {
            (None, _) => {
                self.first = Some(grain);
                true
            }
            (Some(Grain::Stored(first)), Grain::Stored(at)) => first.checked_add(self.len) == Some(at),
            (Some(Grain::Packed(_)), _) | (_, Grain::Packed(_)) => false,
            (Some(first), grain) => first == grain,
        };
        if fits {
            self.next = self.next.saturating_add(count);
            self.len = self.len.saturating_add(self.grain_size.saturating_mul(count));
            self.lookups -= 1;
        }
        fits
    }
}

/// A grain table in a file. It starts with a sector, so that none of its sectors is beside a page of [`Tables`].
struct Sectors<'a, M> {
    map: &'a M,
    tables: &'a Tables,
    table: u64,
}

/// A sector of a grain table, of interest from `from` on.
struct Entries {
    sector: [u8; SECTOR as usize],
    from: usize,
}

impl<M: Grains> Sectors<'_, M> {
    /// The entries from `index` on that are in the same sector.
    fn entries(&self, index: u64) -> Result<Entries> {
        let byte = index * M::ENTRY as u64;
        let at = self.table.saturating_add(byte - byte % SECTOR);
        let sector = self.tables.bytes_of(self.map.file(), at)?;
        Ok(Entries { sector, from: (byte % SECTOR) as usize })
    }
}

impl Entries {
    fn rest(&self) -> &[u8] {
        self.sector.get(self.from..).unwrap_or_default()
    }

    fn first<M: Grains>(&self, map: &M) -> Result<Grain> {
        map.grain(self.rest().get(..M::ENTRY).unwrap_or_default())
    }
}

/// The little-endian `u32` at `at` of a header; 0 where there is none.
pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_le_bytes(*b))
}

/// The little-endian `u64` at `at` of a header; 0 where there is none.
pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_le_bytes(*b))
}
