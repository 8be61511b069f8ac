//! The snapshot table ("Snapshots"): for each internal snapshot a name and an L1 table of its own.

use super::{
    NAMES_MAX,
    header::{Header, Table},
    text,
};
use crate::{
    Error, ErrorKind, Result,
    images::{Snapshot, tables::Tables},
};

/// Snapshots that an image may have; QEMU takes no more either.
const SNAPSHOTS_MAX: u32 = 65_536;
/// Bytes of the fixed part of an entry.
const FIXED: u64 = 40;
/// Bytes of extra data that an entry may have; QEMU takes no more either.
const EXTRA_MAX: u64 = 1024;

/// An internal snapshot.
#[derive(Debug)]
pub(super) struct Entry {
    /// What it is called.
    pub(super) about: Snapshot,
    /// Its L1 table. What that does not reach is not there.
    pub(super) l1: Table,
    /// Bytes of its disk.
    pub(super) disk_size: u64,
}

/// All snapshots of the image.
pub(super) fn read(tables: &Tables, header: &Header) -> Result<Vec<Entry>> {
    let Table { offset, entries } = header.snapshots;
    if entries > SNAPSHOTS_MAX {
        let message = format!("{entries} snapshots (byte 60 of the header) are more than {SNAPSHOTS_MAX}");
        return Err(Error::new(ErrorKind::Limit, message));
    }
    if entries == 0 {
        return Ok(Vec::new());
    }
    header.geometry.check_aligned(offset, "the snapshot table")?;
    let mut at = offset;
    let mut names_left = NAMES_MAX;
    let mut found = Vec::new();
    for _ in 0..entries {
        let (entry, length) = read_entry(tables, header, at, &mut names_left)?;
        found.push(entry);
        at = at.saturating_add(length.next_multiple_of(8));
    }
    Ok(found)
}

/// The entry at `at`, and its length without padding.
fn read_entry(tables: &Tables, header: &Header, at: u64, names_left: &mut u64) -> Result<(Entry, u64)> {
    let [l1_offset, sizes, time, _clock, machine] = words(tables, at)?;
    let (l1_entries, lengths) = ((sizes >> 32) as u32, sizes as u32);
    let (id_length, name_length) = (u64::from(lengths >> 16), u64::from(lengths & 0xffff));
    let (vm_state_small, extra_length) = (machine >> 32, machine & 0xffff_ffff);
    if extra_length > EXTRA_MAX {
        return Err(Error::damaged(format!("the snapshot table has an entry at byte {at} that is too long")));
    }
    let extra = at.saturating_add(FIXED);
    let vm_state_size = if extra_length >= 8 { tables.be64(extra)? } else { vm_state_small };
    // Images of version 2 need not say it.
    let disk_size = if extra_length >= 16 { tables.be64(extra.saturating_add(8))? } else { header.size };
    let l1 = Table { offset: l1_offset, entries: l1_entries };
    header.geometry.check_aligned(l1.offset, "the L1 table of a snapshot")?;
    if i64::try_from(disk_size).is_err() {
        return Err(Error::damaged(format!("the snapshot table says at byte {at} that a disk has {disk_size} bytes")));
    }
    let id_at = extra.saturating_add(extra_length);
    let id = text(tables, id_at, id_length, names_left)?;
    let name = text(tables, id_at.saturating_add(id_length), name_length, names_left)?;
    let about = Snapshot { id, name, time: time >> 32, vm_state_size };
    Ok((Entry { about, l1, disk_size }, FIXED + extra_length + id_length + name_length))
}

/// The five words of the fixed part.
fn words(tables: &Tables, at: u64) -> Result<[u64; 5]> {
    let fixed: [u8; FIXED as usize] = tables.bytes(at)?;
    let mut words = [0; 5];
    for (word, bytes) in words.iter_mut().zip(fixed.as_chunks::<8>().0) {
        *word = u64::from_be_bytes(*bytes);
    }
    Ok(words)
}
