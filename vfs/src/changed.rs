//! Which files of a guest lie in given ranges of its disks: what has made a backup large.
//!
//! A file's bytes say where on the disk they come from ([`ReadAt::origin_at`]), so nothing of its content is read. What is
//! packed has no place of its own and is passed over; so are directories and the filesystem's own structures.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use blockdev::{ReadAt, Result, origin::Source};

use crate::node::{Dir, Kind, Node};

/// How deep folders are looked into.
const DEPTH_MAX: usize = 128;
/// Pieces of a file that are looked at.
const PIECES_MAX: usize = 1 << 16;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Paths, and how many of their bytes lie in the ranges: the most first.
    pub files: Vec<(Vec<u8>, u64)>,
    /// Whether there was time to look at all files.
    pub complete: bool,
}

/// Looks for the files below `root`, a guest's `files`, that lie in ranges: `within` tells how many bytes of a stored file
/// (its number, the first byte, how many) do. At most `most` files, after at most `patience`.
///
/// What cannot be read is passed over: this is for people, and proves nothing.
pub fn files(root: &dyn Dir, within: &dyn Fn(u64, u64, u64) -> u64, most: usize, patience: Duration) -> Found {
    let mut search = Search { within, most, until: Instant::now() + patience, found: Found::default() };
    // As the guest saw its volumes, where it tells that: otherwise each volume by itself.
    let mut names = Vec::new();
    let _unreadable = root.list(0, &mut |entry| {
        names.push((entry.name, entry.kind));
        ControlFlow::Continue(())
    });
    let is_seen = |name: &[u8]| name == b"root" || matches!(name, [letter, b':'] if letter.is_ascii_alphabetic());
    let seen: Vec<_> = names.iter().filter(|(name, _)| is_seen(name)).cloned().collect();
    let tops = if seen.is_empty() { names } else { seen };
    let mut ended = ControlFlow::Continue(());
    for (name, _) in tops.iter().filter(|(_, kind)| *kind == Kind::Dir) {
        let path = if name == b"root" { Vec::new() } else { name.clone() };
        if let (ControlFlow::Continue(()), Ok(Some(Node::Dir(top)))) = (ended, root.lookup(name)) {
            ended = search.folder(top.as_ref(), &path, 0);
        }
    }
    search.found.complete = ended.is_continue();
    search.found
}

struct Search<'a> {
    within: &'a dyn Fn(u64, u64, u64) -> u64,
    most: usize,
    until: Instant,
    found: Found,
}

impl Search<'_> {
    fn folder(&mut self, folder: &dyn Dir, path: &[u8], depth: usize) -> ControlFlow<()> {
        let mut entries = Vec::new();
        let _unreadable = folder.list(0, &mut |entry| {
            entries.push((entry.name, entry.kind));
            ControlFlow::Continue(())
        });
        for (name, kind) in entries {
            if Instant::now() > self.until {
                return ControlFlow::Break(());
            }
            if !matches!(kind, Kind::Dir | Kind::File) {
                continue;
            }
            let path = [path, b"/", &name].concat();
            match folder.lookup(&name) {
                Ok(Some(Node::Dir(below))) if depth < DEPTH_MAX => self.folder(below.as_ref(), &path, depth + 1)?,
                Ok(Some(Node::File(file))) => {
                    if let Ok(bytes @ 1..) = file.open().and_then(|content| self.bytes(content.as_ref())) {
                        self.add(path, bytes);
                    }
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    /// How many bytes of `content` lie in the ranges.
    fn bytes(&self, content: &dyn ReadAt) -> Result<u64> {
        let (mut at, size, mut bytes) = (0, content.size(), 0_u64);
        for _ in 0..PIECES_MAX {
            if at >= size {
                break;
            }
            let origin = content.origin_at(at, size - at)?;
            if let Source::Stored { file, offset } = origin.source {
                bytes = bytes.saturating_add((self.within)(file, offset, origin.len));
            }
            at = at.saturating_add(origin.len.max(1));
        }
        Ok(bytes)
    }

    fn add(&mut self, path: Vec<u8>, bytes: u64) {
        let files = &mut self.found.files;
        let place = files.partition_point(|(_, other)| *other >= bytes);
        files.insert(place, (path, bytes));
        files.truncate(self.most);
    }
}
