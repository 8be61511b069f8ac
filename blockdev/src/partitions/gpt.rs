//! The GUID partition table (UEFI specification, chapter 5): its header in the second sector, the backup in the last.
//!
//! The table counts in sectors of the disk it was made on. A disk that was copied from a 4Kn disk to one of 512-byte
//! sectors, or back, has its header where the old size puts it: there it is looked for too.

use crc_fast::{CrcAlgorithm, checksum};

use super::{
    kinds::PartitionKind,
    table::{ENTRIES_MAX, Entry, Scheme, Table},
};
use crate::{
    BlockDevice, Result,
    fields::{guid, le32, le64, read as read_bytes, slice, utf16},
};

const SIGNATURE: &[u8] = b"EFI PART";
/// The fixed part of a header; its checksum may cover up to a sector.
const HEADER: usize = 92;
/// An entry is of 128 bytes or a power of two times that; more than this is hostile.
const ENTRY_SIZES: std::ops::RangeInclusive<usize> = 128..=4096;
/// Bytes of entries that are read and checked. Disks have 16 KiB.
const ENTRIES_BYTES_MAX: usize = 1 << 20;
/// The entry's attribute that marks what a BIOS boots (bit 2).
const LEGACY_BOOT: u64 = 4;

/// The GPT of `disk`, or `None` when it has none. `expected` says that a protective MBR is there: then the backup is
/// looked for as well when the first header is bad.
pub fn read(disk: &dyn BlockDevice, expected: bool) -> Result<Option<Table>> {
    let logical = disk.block_sizes().logical;
    let mut sector_sizes = vec![logical, 512, 4096];
    sector_sizes.dedup();
    for sector_size in &sector_sizes {
        let unit = u64::from(*sector_size);
        let damage = match at(disk, *sector_size, 1)? {
            Found::Table(table) => return Ok(Some(told(table, logical))),
            Found::Nothing if !expected => continue,
            Found::Nothing => "its first header is missing",
            Found::Damaged(why) => why,
        };
        let last = (disk.size() / unit).saturating_sub(1);
        if let Found::Table(mut table) = at(disk, *sector_size, last)? {
            table.notes.push(format!("{damage}: the backup at the end of the disk was used"));
            return Ok(Some(told(table, logical)));
        }
    }
    Ok(None)
}

fn told(mut table: Table, logical: u32) -> Table {
    if table.sector_size != logical {
        let unit = table.sector_size;
        table.notes.push(format!("the GPT was made for sectors of {unit} bytes, this disk has {logical}"));
    }
    table
}

/// What lies where a header could be.
enum Found {
    Nothing,
    Damaged(&'static str),
    Table(Table),
}

/// The table whose header is in sector `lba`.
fn at(disk: &dyn BlockDevice, sector_size: u32, lba: u64) -> Result<Found> {
    let unit = u64::from(sector_size);
    let sector = read_bytes(disk, lba.saturating_mul(unit), sector_size as usize)?;
    if !sector.starts_with(SIGNATURE) {
        return Ok(Found::Nothing);
    }
    let length = le32(&sector, 12) as usize;
    let Some(header) = sector.get(..length).filter(|h| h.len() >= HEADER) else {
        return Ok(Found::Damaged("its first header has no valid length"));
    };
    let mut summed = header.to_vec();
    if let Some(field) = summed.get_mut(16..20) {
        field.fill(0);
    }
    if checksum(CrcAlgorithm::Crc32IsoHdlc, &summed) != u64::from(le32(header, 16)) || le64(header, 24) != lba {
        return Ok(Found::Damaged("its first header fails its checksum"));
    }
    let (count, entry_size) = (le32(header, 80) as usize, le32(header, 84) as usize);
    let bytes = count.checked_mul(entry_size).filter(|n| *n <= ENTRIES_BYTES_MAX);
    let Some(bytes) = bytes.filter(|_| ENTRY_SIZES.contains(&entry_size)) else {
        return Ok(Found::Damaged("its first header counts entries that cannot be"));
    };
    let entries = read_bytes(disk, le64(header, 72).saturating_mul(unit), bytes)?;
    if entries.len() < bytes || checksum(CrcAlgorithm::Crc32IsoHdlc, &entries) != u64::from(le32(header, 88)) {
        return Ok(Found::Damaged("its entries fail their checksum"));
    }
    let mut table =
        Table { scheme: Scheme::Gpt, id: guid(header, 56), sector_size, entries: Vec::new(), notes: Vec::new() };
    for (number, entry) in (1..).zip(entries.chunks_exact(entry_size)) {
        let Some(kind) = guid(entry, 0) else { continue };
        if table.entries.len() >= ENTRIES_MAX {
            table.notes.push(format!("it has more than {ENTRIES_MAX} partitions: the others are left out"));
            break;
        }
        let (first, last) = (le64(entry, 32), le64(entry, 40));
        let sectors = last.checked_sub(first).map_or(0, |n| n.saturating_add(1));
        table.entries.push(Entry {
            number,
            start: first.saturating_mul(unit),
            size: sectors.saturating_mul(unit),
            kind: PartitionKind::gpt(kind),
            label: utf16(slice(entry, 56, 72)),
            uuid: guid(entry, 16),
            active: le64(entry, 48) & LEGACY_BOOT != 0,
            notes: Vec::new(),
        });
    }
    Ok(Found::Table(table))
}
