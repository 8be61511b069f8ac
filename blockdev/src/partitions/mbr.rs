//! The master boot record, and the chain of extended boot records that holds logical partitions.

use super::{
    kinds::PartitionKind,
    table::{Entry, Scheme, Table},
};
use crate::{
    BlockDevice, Result,
    fields::{le32, read as read_bytes, slice},
};

/// The type byte that guards a GPT, as [`PartitionKind`] writes it.
pub const PROTECTIVE_CODE: &str = "ee";
const PROTECTIVE: u8 = 0xee;
/// Type bytes of extended partitions: CHS, LBA, Linux.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Logical partitions that are followed. Linux takes 60, Windows 128.
const LOGICAL_MAX: u32 = 128;
/// Where the table is in the boot sector, and how long an entry.
const TABLE: usize = 446;
const ENTRY: usize = 16;

/// A master boot record.
pub struct Mbr {
    /// What it says.
    pub table: Table,
    /// Whether an entry guards a GPT.
    pub is_protective: bool,
}

/// The four fields of a table entry that count, in sectors.
struct Raw {
    status: u8,
    kind: u8,
    start: u64,
    count: u64,
}

/// The entries of a boot sector, or `None` when it has no signature.
fn raw_entries(sector: &[u8]) -> Option<Vec<Raw>> {
    let table = sector.get(TABLE..512).filter(|t| t.ends_with(&[0x55, 0xaa]))?;
    let entry = |e: &[u8]| Raw {
        status: e.first().copied().unwrap_or(0),
        kind: e.get(4).copied().unwrap_or(0),
        start: le32(e, 8).into(),
        count: le32(e, 12).into(),
    };
    Some(table.chunks_exact(ENTRY).take(4).map(entry).collect())
}

/// Whether the entries could be those of a disk of `size` bytes: some are used, and these are somewhere.
fn is_plausible(raw: &[Raw], sector_size: u32, size: u64) -> bool {
    let used = |e: &&Raw| e.kind != 0;
    raw.iter().all(|e| matches!(e.status, 0 | 0x80))
        && raw.iter().filter(used).all(|e| e.start > 0 && e.count > 0)
        && raw.iter().filter(used).any(|e| e.start * u64::from(sector_size) < size)
}

/// Whether `sector`, the first of a disk of `size` bytes, is a master boot record. Kernels and boot sectors of filesystems
/// end with the same two bytes.
#[must_use]
pub fn is_mbr(sector: &[u8], size: u64) -> bool {
    raw_entries(sector).is_some_and(|raw| is_plausible(&raw, 512, size))
}

/// The master boot record of `disk`, or `None` when its first sector is something else: boot sectors of filesystems end
/// with the same signature and have code where the table would be.
pub fn read(disk: &dyn BlockDevice) -> Result<Option<Mbr>> {
    let sector = read_bytes(disk, 0, 512)?;
    let Some(raw) = raw_entries(&sector) else { return Ok(None) };
    let sector_size = disk.block_sizes().logical;
    if !is_plausible(&raw, sector_size, disk.size()) {
        return Ok(None);
    }
    let id = match le32(slice(&sector, 440, 4), 0) {
        0 => None,
        id => Some(format!("{id:08x}")),
    };
    let mut table = Table { scheme: Scheme::Mbr, id, sector_size, entries: Vec::new(), notes: Vec::new() };
    let mut extended = None;
    for (number, entry) in (1..).zip(&raw) {
        if EXTENDED.contains(&entry.kind) {
            if extended.replace(entry.start).is_some() {
                table.notes.push("a second extended partition was not followed".into());
            }
        } else if entry.kind != 0 {
            push(&mut table, number, entry.start, entry);
        }
    }
    if let Some(start) = extended {
        logical(disk, start, &mut table)?;
    }
    Ok(Some(Mbr { table, is_protective: raw.iter().any(|e| e.kind == PROTECTIVE) }))
}

/// Follows the chain of extended boot records. Each has one logical partition, counted from itself, and a link to the
/// next, counted from the extended partition.
fn logical(disk: &dyn BlockDevice, extended: u64, table: &mut Table) -> Result<()> {
    let unit = u64::from(table.sector_size);
    let (mut here, mut seen) = (extended, Vec::new());
    let mut number = 5;
    loop {
        if number - 5 >= LOGICAL_MAX || seen.contains(&here) {
            table
                .notes
                .push(format!("the chain of logical partitions loops or is too long: followed to {}", number - 1));
            return Ok(());
        }
        seen.push(here);
        let raw = match here.checked_mul(unit).filter(|at| *at < disk.size()) {
            Some(at) => raw_entries(&read_bytes(disk, at, 512)?),
            None => None,
        };
        let Some(raw) = raw else {
            table.notes.push(format!("there is no boot record for logical partition {number} at sector {here}"));
            return Ok(());
        };
        let is_link = |e: &&Raw| EXTENDED.contains(&e.kind);
        // An empty first record only links on: some tools leave it so when its partition is deleted.
        if let Some(entry) = raw.iter().take(2).find(|e| e.kind != 0 && e.count > 0 && !is_link(e)) {
            push(table, number, here.saturating_add(entry.start), entry);
            number += 1;
        }
        match raw.iter().take(2).find(|e| is_link(e) && e.count > 0) {
            Some(link) => here = extended.saturating_add(link.start),
            None => return Ok(()),
        }
    }
}

fn push(table: &mut Table, number: u32, start: u64, entry: &Raw) {
    let unit = u64::from(table.sector_size);
    table.entries.push(Entry {
        number,
        start: start.saturating_mul(unit),
        size: entry.count.saturating_mul(unit),
        kind: PartitionKind::mbr(entry.kind),
        label: None,
        uuid: table.id.as_ref().map(|id| format!("{id}-{number:02x}")),
        active: entry.status == 0x80,
        notes: Vec::new(),
    });
}
