//! The searchable form of a job's files.
//!
//! ```text
//! header   magic, number of folders, of entries, length of the heap                        32 bytes
//! folders  first entry, number of entries, own entry                                       12 bytes each
//! entries  by folder, then name: place in the heap, file index, record position, ...       36 bytes each
//! by index entry numbers by file index                                                      4 bytes each
//! heap     for each entry its name and its packed stat
//! ```
//!
//! All integers little-endian. The table is a cache of ours in a file that others may have damaged: every number
//! is checked when it is used.

use std::{
    cmp::Ordering,
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use blockdev::{Error, Result};

use super::{
    compact,
    entry::{DirId, Entry, EntryKind, Flags, RecordPos},
};

const MAGIC: &[u8; 8] = b"rvtable1";
const HEADER_LEN: u64 = 32;
const DIR_LEN: u64 = 12;
const ENTRY_LEN: u64 = 36;
/// Tables up to this size are read into memory once they are used more than a little.
const RESIDENT_MAX: u64 = 16 << 20;
/// That many look-ups are made with small reads before the table is worth loading.
const RESIDENT_AFTER: u32 = 64;
const NONE: u32 = u32::MAX;

/// Stands for "position unknown".
pub(super) const NO_POS: RecordPos = RecordPos { block: u32::MAX, offset: u32::MAX };

#[derive(Debug, Clone, Copy)]
pub(super) struct RawDir {
    pub first: u32,
    pub count: u32,
    pub own: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RawEntry {
    pub heap: u64,
    pub child: u32,
    pub file_index: u32,
    pub pos: RecordPos,
    pub name_len: u16,
    pub stat_len: u8,
    pub kind: EntryKind,
    pub flags: Flags,
}

/// Write a table; the number of bytes written.
pub(super) fn write(
    out: &mut dyn Write,
    dirs: &[RawDir],
    entries: impl ExactSizeIterator<Item = RawEntry>,
    by_index: &[u32],
    heap: &[u8],
) -> std::io::Result<u64> {
    let mut out = std::io::BufWriter::with_capacity(1 << 20, out);
    let (n_dirs, n_entries) = (dirs.len() as u64, entries.len() as u64);
    out.write_all(MAGIC)?;
    for v in [n_dirs, n_entries, heap.len() as u64] {
        out.write_all(&v.to_le_bytes())?;
    }
    for d in dirs {
        for v in [d.first, d.count, d.own] {
            out.write_all(&v.to_le_bytes())?;
        }
    }
    for e in entries {
        let mut row = [0; ENTRY_LEN as usize];
        row[..8].copy_from_slice(&e.heap.to_le_bytes());
        for (i, v) in [e.child, e.file_index, e.pos.block, e.pos.offset].into_iter().enumerate() {
            row[8 + i * 4..12 + i * 4].copy_from_slice(&v.to_le_bytes());
        }
        row[24..26].copy_from_slice(&e.name_len.to_le_bytes());
        row[26] = e.stat_len;
        row[27] = EntryKind::ALL.iter().position(|k| *k == e.kind).unwrap_or(0) as u8;
        row[28] = e.flags.0;
        out.write_all(&row)?;
    }
    for i in by_index {
        out.write_all(&i.to_le_bytes())?;
    }
    out.write_all(heap)?;
    out.flush()?;
    Ok(HEADER_LEN + n_dirs * DIR_LEN + n_entries * (ENTRY_LEN + 4) + heap.len() as u64)
}

/// A job's files.
#[derive(Debug)]
pub struct Table {
    file: Arc<File>,
    base: u64,
    len: u64,
    n_dirs: u32,
    n_entries: u32,
    lookups: AtomicU32,
    resident: OnceLock<Box<[u8]>>,
}

/// A number that names an entry within its table, stable for the table's life.
pub type EntryNumber = u32;

impl Table {
    /// Open the table in bytes `base..base + len` of `file`.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is none.
    pub fn open(file: Arc<File>, base: u64, len: u64) -> Result<Self> {
        let mut table =
            Self { file, base, len, n_dirs: 0, n_entries: 0, lookups: AtomicU32::new(0), resident: OnceLock::new() };
        let header: [u8; HEADER_LEN as usize] = table.read(0)?;
        let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|k| header[i * 8 + k]));
        let (n_dirs, n_entries, heap_len) = (word(1), word(2), word(3));
        let sizes = (u32::try_from(n_dirs).ok(), u32::try_from(n_entries).ok());
        let total = n_dirs.checked_mul(DIR_LEN).and_then(|d| {
            n_entries.checked_mul(ENTRY_LEN + 4)?.checked_add(d)?.checked_add(heap_len)?.checked_add(HEADER_LEN)
        });
        match (sizes, total) {
            ((Some(d), Some(e)), Some(total)) if &header[..8] == MAGIC && total == len && d > 0 => {
                (table.n_dirs, table.n_entries) = (d, e);
                Ok(table)
            }
            _ => Err(damaged()),
        }
    }

    /// The checksum of the table's bytes.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn checksum(&self) -> Result<u64> {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        let mut buf = vec![0; (self.len as usize).min(1 << 20)];
        let mut at = 0;
        while at < self.len {
            let n = (self.len - at).min(buf.len() as u64) as usize;
            let fail = |e| Error::io("cannot read the index", e);
            self.file.read_exact_at(&mut buf[..n], self.base + at).map_err(fail)?;
            hash.update(&buf[..n]);
            at += n as u64;
        }
        Ok(hash.digest())
    }

    /// The table, if its bytes have this checksum. Large tables are not read for it: they are checked where they
    /// are used.
    ///
    /// # Errors
    ///
    /// `Damaged` when they have not.
    pub fn verified(self, checksum: u64) -> Result<Self> {
        if self.len <= RESIDENT_MAX && self.checksum()? != checksum { Err(damaged()) } else { Ok(self) }
    }

    /// Another handle of the same table.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { file: Arc::clone(&self.file), lookups: AtomicU32::new(0), resident: OnceLock::new(), ..*self }
    }

    /// The table's bytes: file, offset, length.
    #[must_use]
    pub fn bytes(&self) -> (&Arc<File>, u64, u64) {
        (&self.file, self.base, self.len)
    }

    /// Number of entries, implicit folders and markers included.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.n_entries
    }

    /// The folder that holds everything.
    #[must_use]
    pub const fn root(&self) -> DirId {
        DirId(0)
    }

    /// A folder's own entry.
    ///
    /// # Errors
    ///
    /// When the table cannot be read.
    pub fn own(&self, dir: DirId) -> Result<Entry> {
        let own = self.dir(dir)?.own;
        self.entry(own)
    }

    /// The entries called `name` in a folder: at most one folder, one file and one marker of each; the last
    /// stored of each.
    ///
    /// # Errors
    ///
    /// When the table cannot be read.
    pub fn lookup(&self, dir: DirId, name: &[u8]) -> Result<Vec<Entry>> {
        self.count_lookup();
        let dir = self.dir(dir)?;
        let (mut low, end) = (dir.first, dir.first.saturating_add(dir.count));
        let mut high = end;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name_cmp(middle, name)? {
                Ordering::Less => low = middle + 1,
                _ => high = middle,
            }
        }
        let mut found = Vec::new();
        for number in low..end {
            if self.name_cmp(number, name)? != Ordering::Equal {
                break;
            }
            found.push(self.entry(number)?);
        }
        Ok(found)
    }

    /// Call `sink` with the entries of a folder in the order of their names, from position `from` on, until it
    /// breaks.
    ///
    /// # Errors
    ///
    /// When the table cannot be read.
    pub fn list(
        &self,
        dir: DirId,
        from: u32,
        sink: &mut dyn FnMut(u32, Entry) -> std::ops::ControlFlow<()>,
    ) -> Result<()> {
        let dir = self.dir(dir)?;
        for position in from..dir.count {
            self.count_lookup();
            if sink(position, self.entry(dir.first + position)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The entry with a file index, markers excepted.
    ///
    /// # Errors
    ///
    /// When the table cannot be read.
    pub fn by_file_index(&self, file_index: u32) -> Result<Option<Entry>> {
        self.count_lookup();
        let (mut low, mut high) = (0, self.n_entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.raw(self.number_by_index(middle)?)?.file_index < file_index {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low == self.n_entries {
            return Ok(None);
        }
        let entry = self.entry(self.number_by_index(low)?)?;
        Ok((entry.file_index == file_index).then_some(entry))
    }

    fn number_by_index(&self, i: u32) -> Result<u32> {
        let at =
            HEADER_LEN + u64::from(self.n_dirs) * DIR_LEN + u64::from(self.n_entries) * ENTRY_LEN + u64::from(i) * 4;
        Ok(u32::from_le_bytes(self.read(at)?))
    }

    fn dir(&self, dir: DirId) -> Result<RawDir> {
        if dir.0 >= self.n_dirs {
            return Err(damaged());
        }
        let row: [u8; DIR_LEN as usize] = self.read(HEADER_LEN + u64::from(dir.0) * DIR_LEN)?;
        let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|k| row[i * 4 + k]));
        let dir = RawDir { first: word(0), count: word(1), own: word(2) };
        if dir.first.checked_add(dir.count).is_none_or(|end| end > self.n_entries) {
            return Err(damaged());
        }
        Ok(dir)
    }

    fn raw(&self, number: EntryNumber) -> Result<RawEntry> {
        if number >= self.n_entries {
            return Err(damaged());
        }
        let at = HEADER_LEN + u64::from(self.n_dirs) * DIR_LEN + u64::from(number) * ENTRY_LEN;
        let row: [u8; ENTRY_LEN as usize] = self.read(at)?;
        let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|k| row[8 + i * 4 + k]));
        Ok(RawEntry {
            heap: u64::from_le_bytes(std::array::from_fn(|k| row[k])),
            child: word(0),
            file_index: word(1),
            pos: RecordPos { block: word(2), offset: word(3) },
            name_len: u16::from_le_bytes([row[24], row[25]]),
            stat_len: row[26],
            kind: *EntryKind::ALL.get(usize::from(row[27])).ok_or_else(damaged)?,
            flags: Flags(row[28]),
        })
    }

    /// Entry `number`.
    ///
    /// # Errors
    ///
    /// When the table cannot be read.
    pub fn entry(&self, number: EntryNumber) -> Result<Entry> {
        let raw = self.raw(number)?;
        let mut bytes = vec![0; usize::from(raw.name_len) + usize::from(raw.stat_len)];
        self.read_into(&mut bytes, self.heap_at(raw.heap))?;
        let stat = compact::decode(&bytes[usize::from(raw.name_len)..]).ok_or_else(damaged)?;
        bytes.truncate(usize::from(raw.name_len));
        Ok(Entry {
            name: bytes,
            kind: raw.kind,
            flags: raw.flags,
            file_index: raw.file_index,
            pos: (raw.pos != NO_POS).then_some(raw.pos),
            stat,
            dir: (raw.child != NONE).then_some(DirId(raw.child)),
        })
    }

    fn name_cmp(&self, number: EntryNumber, name: &[u8]) -> Result<Ordering> {
        let raw = self.raw(number)?;
        if let Some(all) = self.resident.get() {
            let start = usize::try_from(self.heap_at(raw.heap)).unwrap_or(usize::MAX);
            let stored = all.get(start..).and_then(|r| r.get(..usize::from(raw.name_len))).ok_or_else(damaged)?;
            return Ok(stored.cmp(name));
        }
        let mut stored = vec![0; usize::from(raw.name_len)];
        self.read_into(&mut stored, self.heap_at(raw.heap))?;
        Ok(stored.as_slice().cmp(name))
    }

    fn heap_at(&self, offset: u64) -> u64 {
        let heap = HEADER_LEN + u64::from(self.n_dirs) * DIR_LEN + u64::from(self.n_entries) * (ENTRY_LEN + 4);
        heap.saturating_add(offset)
    }

    fn count_lookup(&self) {
        if self.len <= RESIDENT_MAX
            && self.resident.get().is_none()
            && self.lookups.fetch_add(1, Relaxed) >= RESIDENT_AFTER
        {
            let mut all = vec![0; self.len as usize];
            if self.file.read_exact_at(&mut all, self.base).is_ok() {
                let _ = self.resident.set(all.into());
            }
        }
    }

    fn read<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_into(&mut bytes, at)?;
        Ok(bytes)
    }

    fn read_into(&self, buf: &mut [u8], at: u64) -> Result<()> {
        if at.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(damaged());
        }
        if let Some(all) = self.resident.get() {
            buf.copy_from_slice(&all[at as usize..at as usize + buf.len()]);
            return Ok(());
        }
        self.file.read_exact_at(buf, self.base + at).map_err(|e| Error::io("cannot read the index", e))
    }
}

fn damaged() -> Error {
    Error::damaged("the index is damaged; delete it from the cache folder, it will be made again")
}

#[cfg(test)]
mod tests {
    use super::{super::builder::*, *};
    use crate::attributes::Stat;

    fn table(entries: &[(&str, EntryKind, u32)]) -> Table {
        let mut b = Builder::default();
        for (path, kind, file_index) in entries {
            let stat = Stat { size: i64::from(*file_index), ..Stat::default() };
            let (kind, flags, pos) = (*kind, Flags::default(), Some(RecordPos { block: 1, offset: *file_index }));
            b.add(NewEntry { path: path.as_bytes(), kind, flags, file_index: *file_index, pos, stat: &stat }).unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        let len = b.write(&mut file).unwrap();
        Table::open(Arc::new(file), 0, len).unwrap()
    }

    fn names(t: &Table, dir: DirId) -> Vec<String> {
        let mut names = vec![];
        t.list(dir, 0, &mut |_, e| {
            names.push(String::from_utf8(e.name).unwrap());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        names
    }

    #[test]
    fn folders_that_were_not_stored_are_made_and_look_ups_find_all() {
        use EntryKind::{Deleted, Dir, File};
        let t = table(&[
            ("/a/b/two", File, 1),
            ("/a/b/one", File, 2),
            ("/a/b/", Dir, 3),
            ("/a/b/x", Deleted, 4),
            ("/a/b/x/y", File, 5),
        ]);
        assert_eq!(names(&t, t.root()), ["a"]);
        let a = t.lookup(t.root(), b"a").unwrap().remove(0);
        assert!(a.flags.has(Flags::IMPLICIT));
        let b = t.lookup(a.dir.unwrap(), b"b").unwrap().remove(0);
        assert_eq!((b.file_index, b.stat.size), (3, 3));
        assert_eq!(names(&t, b.dir.unwrap()), ["one", "two", "x", "x"]);
        assert_eq!(t.lookup(b.dir.unwrap(), b"x").unwrap().len(), 2);
        assert!(t.lookup(b.dir.unwrap(), b"three").unwrap().is_empty());
        assert_eq!(t.by_file_index(2).unwrap().unwrap().name, b"one");
        assert!(t.by_file_index(9).unwrap().is_none());
        for _ in 0..100 {
            assert_eq!(t.lookup(b.dir.unwrap(), b"one").unwrap().len(), 1, "also when resident");
        }
    }

    #[test]
    fn dots_cannot_be_names() {
        let t = table(&[("/../..", EntryKind::File, 1), ("x/../y", EntryKind::File, 2)]);
        assert!(names(&t, t.root()).contains(&"%2E%2E".to_owned()));
        assert!(!names(&t, t.root()).contains(&"..".to_owned()));
    }

    #[test]
    fn any_flipped_byte_gives_an_error_or_an_answer_but_no_panic() {
        let t =
            table(&[("/a/b/two", EntryKind::File, 1), ("/a/b/one", EntryKind::File, 2), ("/c/", EntryKind::Dir, 3)]);
        let mut bytes = vec![0; t.len as usize];
        t.file.read_exact_at(&mut bytes, 0).unwrap();
        for i in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[i] ^= flip;
                let file = tempfile::tempfile().unwrap();
                file.write_all_at(&bad, 0).unwrap();
                let Ok(t) = Table::open(Arc::new(file), 0, bad.len() as u64) else { continue };
                for dir in 0..4 {
                    let _ = t.lookup(DirId(dir), b"one");
                    let _ = t.list(DirId(dir), 0, &mut |_, _| std::ops::ControlFlow::Continue(()));
                    let _ = t.own(DirId(dir));
                    let _ = t.by_file_index(dir);
                }
            }
        }
    }
}
