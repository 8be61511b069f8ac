//! The log: changes of tables that were promised and perhaps not yet made (MS-VHDX 2.3).
//!
//! An image that was not closed has tables on disk that are older than its data. The log is a ring of entries, each
//! with its checksum and a sequence number; the newest unbroken sequence of them has to be written over the file before
//! anything else is read. Here it becomes a list of [`Patch`]es that is laid over the file: nothing is written.

use std::ops::Range;

use super::{
    guid::Guid,
    header::{CHECKSUM, Header, aligned},
    ids::crc32c_digest,
    replay::{Content, Patches},
};
use crate::{Error, ErrorKind, ReadAt, Result, images::blocks::field};

/// The unit of the log and of what it changes.
pub const SECTOR: u64 = 4096;

/// The largest log that is replayed. Hyper-V's have 1 MiB.
const LOG_MAX: u64 = 64 << 20;

/// How often the whole log may be read: an honest one is read about twice. Entries that each claim the whole log are
/// not.
const READS_MAX: u64 = 8;

const HEADER_LEN: u64 = 64;
const DESCRIPTOR_LEN: u64 = 32;

/// The log of one file.
struct Log<'a> {
    file: &'a dyn ReadAt,
    guid: Guid,
    at: u64,
    len: u64,
    /// Bytes that may still be read to look for entries.
    budget: u64,
    /// There are entries of this log, valid or not.
    entries_seen: bool,
}

/// A valid entry.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where it begins in the ring.
    at: u64,
    len: u64,
    /// Where in the ring the oldest entry begins that is needed with this one.
    tail: u64,
    sequence: u64,
    descriptors: u64,
    /// How long the file was for certain when the entry was written.
    flushed_size: u64,
    /// How long the file has to be.
    last_size: u64,
}

/// One change that an entry tells of.
struct Patch {
    range: Range<u64>,
    content: Content,
}

/// What the log of `file` changes; `None` if it is empty.
///
/// # Errors
///
/// `Damaged` when the log is not empty and has no whole sequence of entries, or the file is shorter than it was when
/// they were written; `Limit` when the log is too large.
pub fn read(file: &dyn ReadAt, header: &Header) -> Result<Option<Patches>> {
    if header.log_guid == Guid::NIL {
        return Ok(None);
    }
    let range = aligned(header.log_at, header.log_len).filter(|r| r.end <= file.size()).ok_or_else(|| {
        Error::damaged(format!(
            "the log should be at byte {} with {} bytes, which is not in the file: it was cut off, take another copy",
            header.log_at, header.log_len
        ))
    })?;
    let len = range.end - range.start;
    if len > LOG_MAX {
        let what = format!("the log of {len} bytes would have to be replayed, and the most that is read is {LOG_MAX}");
        return Err(Error::new(ErrorKind::Limit, what));
    }
    let budget = len * READS_MAX;
    let mut log = Log { file, guid: header.log_guid, at: range.start, len, budget, entries_seen: false };
    match log.active_sequence()? {
        Some(entries) => log.replay(&entries).map(Some),
        // The header was written, and nothing was logged any more.
        None if !log.entries_seen => Ok(None),
        None => Err(Error::damaged(
            "the image was not closed, and its log is damaged: open it with the program that made it, or take another copy",
        )),
    }
}

impl Log<'_> {
    /// The entries that have to be replayed, in that order: the unbroken sequence with the highest number, from the
    /// entry on that its last one calls the tail (2.3.2).
    fn active_sequence(&mut self) -> Result<Option<Vec<Entry>>> {
        let mut best: Vec<Entry> = Vec::new();
        let mut start = 0;
        loop {
            let mut entries: Vec<Entry> = Vec::new();
            let mut at = start;
            while let Some(entry) = self.entry(at)? {
                if entries.last().is_some_and(|last| last.sequence.checked_add(1) != Some(entry.sequence)) {
                    break;
                }
                at = (at + entry.len) % self.len;
                entries.push(entry);
            }
            let next = if entries.is_empty() { start + SECTOR } else { at };
            if let Some(head) = entries.last()
                && best.last().is_none_or(|other| other.sequence < head.sequence)
                && let Some(tail) = entries.iter().position(|entry| entry.at == head.tail)
            {
                entries.drain(..tail);
                best = entries;
            }
            // A sequence that went over the end of the ring was the last.
            if next <= start || next >= self.len {
                break;
            }
            start = next;
        }
        Ok((!best.is_empty()).then_some(best))
    }

    /// The entry at `at` of the ring, if there is a valid one (2.3.1).
    fn entry(&mut self, at: u64) -> Result<Option<Entry>> {
        let mut bytes = [0; HEADER_LEN as usize];
        self.read(&mut bytes, at)?;
        if !bytes.starts_with(b"loge") || Guid(field(&bytes, 32)) != self.guid {
            return Ok(None);
        }
        self.entries_seen = true;
        let word = |at| u64::from(u32::from_le_bytes(field(&bytes, at)));
        let long = |at| u64::from_le_bytes(field(&bytes, at));
        let entry = Entry {
            at,
            len: word(8),
            tail: word(12),
            sequence: long(16),
            descriptors: word(24),
            flushed_size: long(48),
            last_size: long(56),
        };
        let possible = entry.len > 0
            && entry.len <= self.len
            && entry.len.is_multiple_of(SECTOR)
            && entry.tail < self.len
            && entry.tail.is_multiple_of(SECTOR)
            && entry.sequence > 0
            && entry.table_len() <= entry.len;
        if !possible || !self.checksum_fits(&entry, u32::from_le_bytes(field(&bytes, CHECKSUM.start)))? {
            return Ok(None);
        }
        Ok(self.each_patch(&entry, |_| Ok(()))?.then_some(entry))
    }

    fn checksum_fits(&mut self, entry: &Entry, stored: u32) -> Result<bool> {
        self.budget = self.budget.checked_sub(entry.len).ok_or_else(|| {
            Error::damaged("the entries of the log overlap: it is damaged, take another copy of the image")
        })?;
        let mut crc = crc32c_digest();
        let mut sector = [0; SECTOR as usize];
        for at in (0..entry.len).step_by(SECTOR as usize) {
            self.read(&mut sector, entry.at + at)?;
            if at == 0
                && let Some(own) = sector.get_mut(CHECKSUM)
            {
                own.fill(0);
            }
            crc.update(&sector);
        }
        Ok(crc.finalize() == u64::from(stored))
    }

    /// Hand each change of `entry` to `take`; `false` if its descriptors are not valid (2.3.1.2 to 2.3.1.4).
    fn each_patch(&self, entry: &Entry, mut take: impl FnMut(Patch) -> Result<()>) -> Result<bool> {
        let mut data = entry.table_len();
        let mut sector = [0; SECTOR as usize];
        for number in 0..entry.descriptors {
            let at = HEADER_LEN + number * DESCRIPTOR_LEN;
            if number == 0 || at.is_multiple_of(SECTOR) {
                self.read(&mut sector, entry.at + at / SECTOR * SECTOR)?;
            }
            let bytes: [u8; DESCRIPTOR_LEN as usize] = field(&sector, (at % SECTOR) as usize);
            let offset = u64::from_le_bytes(field(&bytes, 16));
            if u64::from_le_bytes(field(&bytes, 24)) != entry.sequence || !offset.is_multiple_of(SECTOR) {
                return Ok(false);
            }
            let (len, content) = match &bytes[..4] {
                b"zero" => (u64::from_le_bytes(field(&bytes, 8)), Content::Zeros),
                b"desc" => {
                    if data + SECTOR > entry.len || !self.data_fits(entry, data)? {
                        return Ok(false);
                    }
                    // Data sectors do not cross the end of the ring: both are multiples of their size.
                    let at = self.at + (entry.at + data) % self.len;
                    data += SECTOR;
                    (SECTOR, Content::Logged { at, leading: field(&bytes, 8), trailing: field(&bytes, 4) })
                }
                _ => return Ok(false),
            };
            match offset.checked_add(len) {
                Some(end) if len.is_multiple_of(SECTOR) => take(Patch { range: offset..end, content })?,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether the data sector `data` bytes behind the start of `entry` belongs to it.
    fn data_fits(&self, entry: &Entry, data: u64) -> Result<bool> {
        let (mut head, mut tail) = ([0; 8], [0; 4]);
        self.read(&mut head, entry.at + data)?;
        self.read(&mut tail, entry.at + data + SECTOR - 4)?;
        let high = u32::from_le_bytes(field(&head, 4));
        let sequence = u64::from(high) << 32 | u64::from(u32::from_le_bytes(tail));
        Ok(head.starts_with(b"data") && sequence == entry.sequence)
    }

    /// All changes of `entries`, later ones over earlier ones.
    fn replay(&self, entries: &[Entry]) -> Result<Patches> {
        let mut patches = Patches::default();
        for entry in entries {
            if entry.flushed_size > self.file.size() {
                return Err(Error::damaged(format!(
                    "the image file had {} bytes when its log was written, and has {}: it was cut off, take another copy",
                    entry.flushed_size,
                    self.file.size()
                )));
            }
            patches.grow(entry.last_size);
            self.each_patch(entry, |patch| patches.put(patch.range, patch.content))?;
        }
        Ok(patches)
    }

    /// Fill `bytes` from `at` of the ring on, which may be up to one round too large.
    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        // What is read at once lies within a sector, and sectors do not cross the end of the ring.
        let at = self.at + at % self.len;
        if self.file.read_at(bytes, at)? < bytes.len() {
            return Err(Error::damaged(format!("the image file ends within its log, before byte {at}")));
        }
        Ok(())
    }
}

impl Entry {
    /// Bytes of the header and the descriptors, in whole sectors. At most 2^37.
    fn table_len(&self) -> u64 {
        (HEADER_LEN + self.descriptors * DESCRIPTOR_LEN).next_multiple_of(SECTOR)
    }
}
