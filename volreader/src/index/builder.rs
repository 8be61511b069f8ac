//! Builds a job's table from entries in the order in which the job stored them.
//!
//! Kept small, since a job may have millions: a fixed part of 40 bytes an entry, and names and `stat`s in one heap.

use std::{collections::HashMap, io::Write};

use super::{
    compact,
    entry::{EntryKind, Flags, RecordPos},
    table,
};
use crate::attributes::Stat;

/// An entry to be added: as [`super::entry::Entry`], with its whole path.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    /// Path as stored; a trailing `/` says that it is a folder's.
    pub path: &'a [u8],
    /// What it is.
    pub kind: EntryKind,
    /// Facts.
    pub flags: Flags,
    /// Number of the file in the job.
    pub file_index: u32,
    /// Place of its attributes record.
    pub pos: Option<RecordPos>,
    /// `stat`.
    pub stat: &'a Stat,
}

/// A table in the making.
#[derive(Debug, Default)]
pub struct Builder {
    raw: Vec<Raw>,
    heap: Vec<u8>,
    /// Folders by their parent and name; the root is not among them. Whole paths as keys would cost the square
    /// of a hostile path's length.
    dirs: HashMap<(u32, Box<[u8]>), u32>,
    /// Files come folder by folder: most look-ups are for the folder of the one before.
    last_dir: Option<(Vec<u8>, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Raw {
    heap: u64,
    parent: u32,
    child: u32,
    file_index: u32,
    pos: RecordPos,
    name_len: u16,
    stat_len: u8,
    kind: EntryKind,
    flags: Flags,
}

/// Handle of an entry that was added, to amend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added(usize);

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

impl Builder {
    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Add an entry; `None` when its path has a component that no filesystem could show (over 64 KiB).
    pub fn add(&mut self, new: NewEntry<'_>) -> Option<Added> {
        let is_dir_path = new.path.ends_with(b"/");
        let path = trim(new.path);
        let split = path.iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
        let (parent_path, name) = path.split_at(split);
        let parent = if path.is_empty() { NONE } else { self.dir(trim(parent_path)) };
        let child = if new.kind == EntryKind::Dir { self.dir(path) } else { NONE };
        let flags = new.flags.with_if(is_dir_path, Flags::DIR_PATH);
        let raw = Raw {
            heap: self.heap.len() as u64,
            parent,
            child,
            file_index: new.file_index,
            pos: new.pos.unwrap_or(table::NO_POS),
            name_len: 0,
            stat_len: 0,
            kind: new.kind,
            flags,
        };
        self.push(raw, name, new.stat)
    }

    /// Add `raw`, whose name and `stat` go to the heap now.
    fn push(&mut self, mut raw: Raw, name: &[u8], stat: &Stat) -> Option<Added> {
        let name = shown_name(name);
        raw.name_len = u16::try_from(name.len()).ok()?;
        self.heap.extend_from_slice(&name);
        let before = self.heap.len();
        compact::encode(stat, &mut self.heap);
        raw.stat_len = (self.heap.len() - before) as u8;
        self.raw.push(raw);
        Some(Added(self.raw.len() - 1))
    }

    /// Replace an entry's `stat`, now that the content is known.
    pub fn amend(&mut self, added: Added, stat: &Stat, flags: Flags) {
        let Some(raw) = self.raw.get_mut(added.0) else { return };
        let start = raw.heap as usize + usize::from(raw.name_len);
        let is_last = start + usize::from(raw.stat_len) == self.heap.len();
        if is_last {
            self.heap.truncate(start);
        } else {
            // Rare: something was added in between. The old bytes stay unused.
            let name = raw.heap as usize..start;
            raw.heap = self.heap.len() as u64;
            self.heap.extend_from_within(name);
        }
        let before = self.heap.len();
        compact::encode(stat, &mut self.heap);
        raw.stat_len = (self.heap.len() - before) as u8;
        raw.flags = raw.flags.with(flags);
    }

    /// The folder with this path (no slash at either end), made if need be with all above it.
    fn dir(&mut self, path: &[u8]) -> u32 {
        if let Some((last, id)) = &self.last_dir
            && last == path
        {
            return *id;
        }
        let mut id = ROOT;
        for name in path.split(|&b| b == b'/').filter(|c| !c.is_empty()) {
            let next = self.dirs.len() as u32 + 1;
            let key = (id, name.into());
            id = *self.dirs.entry(key).or_insert(next);
        }
        self.last_dir = Some((path.to_vec(), id));
        id
    }

    /// Write the table.
    ///
    /// # Errors
    ///
    /// What `out` reports.
    pub fn write(mut self, out: &mut dyn Write) -> std::io::Result<u64> {
        self.last_dir = None;
        let n_dirs = self.dirs.len() + 1;
        self.add_implicit_dirs();
        let heap = &self.heap;
        let name = |r: &Raw| &heap[r.heap as usize..r.heap as usize + usize::from(r.name_len)];
        // The root's own entry has no parent: NONE sorts it last.
        self.raw.sort_unstable_by(|a, b| {
            (a.parent, name(a), a.kind != EntryKind::Dir, a.file_index).cmp(&(
                b.parent,
                name(b),
                b.kind != EntryKind::Dir,
                b.file_index,
            ))
        });
        let mut dirs = vec![table::RawDir { first: 0, count: 0, own: NONE }; n_dirs];
        for (i, raw) in self.raw.iter().enumerate() {
            if let Some(dir) = dirs.get_mut(raw.parent as usize) {
                if dir.count == 0 {
                    dir.first = i as u32;
                }
                dir.count += 1;
            }
            if let Some(dir) = dirs.get_mut(raw.child as usize) {
                dir.own = i as u32; // the last one wins, as it would in a restore
            }
        }
        let mut by_index: Vec<u32> = (0..self.raw.len() as u32).collect();
        by_index.sort_unstable_by_key(|&i| self.raw[i as usize].file_index);
        let rows = self.raw.iter().map(|r| table::RawEntry {
            heap: r.heap,
            child: r.child,
            file_index: r.file_index,
            pos: r.pos,
            name_len: r.name_len,
            stat_len: r.stat_len,
            kind: r.kind,
            flags: r.flags,
        });
        table::write(out, &dirs, rows, &by_index, &self.heap)
    }

    /// Which folders have anything but markers of deleted files in them, at any depth.
    fn alive(&self, dirs: &HashMap<(u32, Box<[u8]>), u32>) -> Vec<bool> {
        let mut parents = vec![NONE; dirs.len() + 1];
        for ((parent, _), id) in dirs {
            parents[*id as usize] = *parent;
        }
        let mut alive = vec![false; dirs.len() + 1];
        for raw in self.raw.iter().filter(|r| r.kind != EntryKind::Deleted) {
            let mut at = raw.parent;
            while let Some(a) = alive.get_mut(at as usize).filter(|a| !**a) {
                *a = true;
                at = parents[at as usize];
            }
        }
        alive[ROOT as usize] = true;
        alive
    }

    fn add_implicit_dirs(&mut self) {
        let dirs = std::mem::take(&mut self.dirs);
        let mut has_own = vec![false; dirs.len() + 1];
        for raw in &self.raw {
            if let Some(own) = has_own.get_mut(raw.child as usize) {
                *own = true;
            }
        }
        let alive = self.alive(&dirs);
        let stat = Stat { mode: 0o040_755, nlink: 2, ..Stat::default() };
        let root = (!has_own[ROOT as usize]).then_some((NONE, &b""[..], ROOT));
        let others = dirs.iter().map(|((parent, name), id)| (*parent, name.as_ref(), *id));
        for (parent, name, child) in others.filter(|d| !has_own[d.2 as usize]).chain(root) {
            let raw = Raw {
                heap: self.heap.len() as u64,
                parent,
                child,
                file_index: 0,
                pos: table::NO_POS,
                name_len: 0,
                stat_len: 0,
                kind: EntryKind::Dir,
                flags: Flags::IMPLICIT.with_if(!alive[child as usize], Flags::GHOST),
            };
            self.push(raw, name, &stat);
        }
    }
}

/// Without slashes at either end.
fn trim(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"/") {
        path = rest;
    }
    while let Some(rest) = path.strip_suffix(b"/") {
        path = rest;
    }
    path
}

/// `.` and `..` cannot be names in a tree: their dots are shown as `%2E`.
fn shown_name(name: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    match name {
        b"." => b"%2E".into(),
        b".." => b"%2E%2E".into(),
        _ => name.into(),
    }
}
