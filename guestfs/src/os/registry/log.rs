//! Transaction logs: what Windows had written there and not yet into the hive.
//!
//! A running Windows 8.1 or later writes its hives at most once an hour, and its logs all the time: of a machine that was
//! copied while it ran, the hives are stale and the logs complete them. The entries (`HvLE`) of both logs are put over the
//! hive in the order of their numbers, beginning with the one that the hive waits for. Older systems have one log with
//! one set of pages (`DIRT`). Nothing is written: the pages stay where they are in the logs, and are looked up there.

use std::{collections::BTreeMap, sync::Arc};

use blockdev::{
    BlockDevice, Error, ReadAt, Result,
    fields::{le32, le64, read, slice},
    layers::Concat,
};

use super::header::{BINS, Header, LEN};
use crate::patched::{Patch, Patched, Patches};

/// Bytes of a sector: pages and entries are multiples of it.
const SECTOR: u32 = 512;

/// Sectors that logs may change: 256 MiB of a hive.
const PATCHES_MAX: usize = 1 << 19;

/// The largest entry that is read, in bytes.
const ENTRY_MAX: usize = 32 << 20;

/// Bytes of a log that are read.
const LOG_MAX: u64 = 64 << 20;

/// Bytes of an entry before its list of pages.
const ENTRY_HEAD: usize = 40;

/// The key of the hash (section "New format").
const SEED: u64 = 0x82EF_4D88_7A4E_55C5;

/// Kinds of a base block that begins a log of one set of pages.
const OLD: [u32; 2] = [1, 2];

/// A hive under its logs.
pub struct Replayed {
    pub device: Arc<dyn BlockDevice>,
    pub header: Header,
    pub notes: Vec<String>,
}

/// Pages of a hive that lie in a log.
struct Entry {
    /// Bytes of all bins after it.
    bins: u32,
    /// Place in the hive, from the first bin; place in the log; bytes.
    pages: Vec<(u32, u64, u32)>,
}

/// `hive` under `logs`.
///
/// # Errors
///
/// When it has no header, or cannot be read.
pub fn replay(hive: Arc<dyn BlockDevice>, logs: &[Arc<dyn BlockDevice>]) -> Result<Replayed> {
    let mut header = Header::read(hive.as_ref())?;
    let mut notes = Vec::new();
    if header.is_clean() {
        return Ok(Replayed { device: hive, header, notes });
    }
    // By its number: which log it is in, and what it says.
    let mut entries: BTreeMap<u32, (usize, Entry)> = BTreeMap::new();
    for (number, log) in logs.iter().enumerate() {
        let mut add = |sequence, entry| drop(entries.insert(sequence, (number, entry)));
        if let Err(e) = read_log(log.as_ref(), &header, &mut add) {
            notes.push(format!("registry log {}: {e}", number + 1));
        }
    }
    let bases = bases(hive.as_ref(), logs);
    let mut patches = Patches::new(SECTOR, PATCHES_MAX);
    let (mut replayed, mut next) = (0_usize, None);
    for (sequence, (log, entry)) in entries {
        if next.is_some_and(|next| next != sequence) {
            break;
        }
        let base = bases.get(log).copied().unwrap_or_default();
        put(&mut patches, base, &entry)?;
        header.bins = entry.bins;
        header.is_sound = true;
        replayed += 1;
        next = Some(sequence.wrapping_add(1));
    }
    if replayed == 0 {
        notes.push("the registry hive was in use, and no log completes it: its last changes may be missing".into());
        return Ok(Replayed { device: hive, header, notes });
    }
    notes.push(format!("{replayed} changes of the registry hive were in its logs only and are read from there"));
    let parts = std::iter::once(hive).chain(logs.iter().cloned());
    let device: Arc<dyn BlockDevice> = Arc::new(Concat::new(parts)?);
    Ok(Replayed { device: Arc::new(Patched::new(device, patches)), header, notes })
}

/// Where each log begins, in bytes, when they lie behind the hive and each other.
fn bases(hive: &dyn BlockDevice, logs: &[Arc<dyn BlockDevice>]) -> Vec<u64> {
    let mut end = hive.size();
    let place = |log: &Arc<dyn BlockDevice>| {
        let base = end;
        end = end.saturating_add(log.size());
        base
    };
    logs.iter().map(place).collect()
}

fn put(patches: &mut Patches, base: u64, entry: &Entry) -> Result<()> {
    for (hive, log, len) in &entry.pages {
        for at in (0..*len).step_by(SECTOR as usize).map(u64::from) {
            let number = (BINS + u64::from(*hive) + at) / u64::from(SECTOR);
            patches.put(number, Patch::At(base.saturating_add(*log).saturating_add(at)))?;
        }
    }
    Ok(())
}

/// Gives `add` the entries of `log` that the hive with `header` has not.
fn read_log(log: &dyn BlockDevice, header: &Header, add: &mut dyn FnMut(u32, Entry)) -> Result<()> {
    if log.size() == 0 {
        return Ok(());
    }
    let own = Header::read(log)?;
    if OLD.contains(&own.kind) {
        // It was written completely, and for the writing of the hive that did not come to its end.
        if own.is_clean() && (!header.is_sound || own.secondary >= header.secondary) {
            add(own.secondary, set(log, &own)?);
        }
        return Ok(());
    }
    let mut at = LEN as u64;
    while at < LOG_MAX {
        // What is behind the last entry is left of earlier ones, or damaged: the numbers tell.
        let Some((sequence, len, entry)) = entry(log, at)? else { break };
        if !header.is_sound || sequence >= header.secondary {
            add(sequence, entry);
        }
        at = at.saturating_add(len);
    }
    Ok(())
}

/// The entry at `at`: its number, its length, and the rest; `None` when there is none that is whole.
fn entry(log: &dyn BlockDevice, at: u64) -> Result<Option<(u32, u64, Entry)>> {
    let head = read(log, at, ENTRY_HEAD)?;
    let len = usize::try_from(le32(&head, 4)).unwrap_or(usize::MAX);
    if !head.starts_with(b"HvLE") || !(ENTRY_HEAD..=ENTRY_MAX).contains(&len) || len % SECTOR as usize != 0 {
        return Ok(None);
    }
    let bytes = read(log, at, len)?;
    let is_sound = bytes.len() == len
        && marvin32(slice(&bytes, ENTRY_HEAD, len)) == le64(&bytes, 24)
        && marvin32(slice(&bytes, 0, 32)) == le64(&bytes, 32);
    // Checksums would keep a fuzzer out.
    if !is_sound && !cfg!(fuzzing) {
        return Ok(None);
    }
    let count = usize::try_from(le32(&bytes, 20)).unwrap_or(usize::MAX);
    // Each page has at least a sector: of more there is no room.
    let list = slice(&bytes, ENTRY_HEAD, count.min(len / SECTOR as usize) * 8);
    let mut place = ENTRY_HEAD + list.len();
    let mut pages = Vec::with_capacity(list.len() / 8);
    for reference in list.as_chunks::<8>().0 {
        let (hive, size) = (le32(reference, 0), le32(reference, 4));
        let end = place.saturating_add(size as usize);
        if hive % SECTOR != 0 || size % SECTOR != 0 || size == 0 || end > bytes.len() {
            return Err(Error::damaged(format!("the entry at byte {at} has pages that lie outside of it")));
        }
        pages.push((hive, at.saturating_add(place as u64), size));
        place = end;
    }
    Ok(Some((le32(&bytes, 12), len as u64, Entry { bins: le32(&bytes, 16), pages })))
}

/// What an old log has: behind its base block a bit for each sector of the hive's bins, then the sectors whose bit is set.
fn set(log: &dyn BlockDevice, own: &Header) -> Result<Entry> {
    const BITS: u64 = LEN as u64 + 4;
    let sectors = own.bins / SECTOR;
    let bits = read(log, LEN as u64, 4 + sectors.div_ceil(8) as usize)?;
    let Some(bits) = bits.strip_prefix(b"DIRT") else {
        return Err(Error::damaged("it has no map of changed pages"));
    };
    let mut place = (BITS + bits.len() as u64).next_multiple_of(u64::from(SECTOR));
    let mut pages = Vec::new();
    for sector in 0..sectors {
        let byte = bits.get(sector as usize / 8).copied().unwrap_or_default();
        if byte >> (sector % 8) & 1 == 1 && pages.len() < PATCHES_MAX {
            pages.push((sector * SECTOR, place, SECTOR));
            place += u64::from(SECTOR);
        }
    }
    if place > log.size() {
        return Err(Error::damaged("it ends before its last page"));
    }
    Ok(Entry { bins: own.bins, pages })
}

/// The hash of entries: Marvin32 of a whole number of words.
fn marvin32(bytes: &[u8]) -> u64 {
    const END: u32 = 0x80;
    let (mut low, mut high) = (SEED as u32, (SEED >> 32) as u32);
    let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    for word in words.chain([END, 0]) {
        low = low.wrapping_add(word);
        high ^= low;
        low = low.rotate_left(20).wrapping_add(high);
        high = high.rotate_left(9) ^ low;
        low = low.rotate_left(27).wrapping_add(high);
        high = high.rotate_left(19);
    }
    u64::from(high) << 32 | u64::from(low)
}
