//! What differs between two trees: two restore points of a machine, two folders, two states of a job.
//!
//! The walk merges the names of both, directory by directory. A file is compared by what `stat` says, and by its content
//! only as far as that is needed (`content`): bytes of the same origin are the same and are not read, so two points
//! of a disk cost their metadata and what has changed in between.

mod content;

use std::{collections::BTreeMap, ops::ControlFlow};

use blockdev::{Error, ErrorKind, Result};

use self::content::Trust;
pub use self::content::{Changed, changed_blocks, share_origins};
use crate::node::{Attributes, Dir, File, Kind, Node};

/// Directories in each other that are followed.
const DEPTH_MAX: usize = 1000;

/// Entries of one directory that can be compared.
const ENTRIES_MAX: usize = 20_000_000;

/// How to compare.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Compare all content that is not known to be the same, also of files whose size and times are the same.
    pub content: bool,
    /// Both are states of the same disks, which share what did not change ([`share_origins`]): so what a file whose size
    /// and times are the same has elsewhere now was written in between, and is compared.
    pub shared: bool,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Path below both roots.
    pub path: Vec<u8>,
    /// What it is now; what it was, when it was removed.
    pub kind: Kind,
    /// What has happened to it.
    pub change: Change,
}

/// What has happened to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new, of this size.
    Added(u64),
    /// It is gone; it had this size.
    Removed(u64),
    /// It is another one or has other content or attributes.
    Changed {
        /// Size before.
        before: u64,
        /// Size now.
        after: u64,
        /// What differs: `type`, `content`, `target`, `mode`, `owner`, `mtime`, `xattrs`, `device`.
        what: Vec<&'static str>,
    },
}

/// How it went.
#[derive(Debug, Default)]
pub struct Summary {
    /// Entries looked at, of both trees together.
    pub entries: u64,
    /// Files and folders that are new, gone, and changed.
    pub added: u64,
    /// See `added`.
    pub removed: u64,
    /// See `added`.
    pub changed: u64,
    /// Bytes of content that had to be read, of both trees together.
    pub bytes_read: u64,
    /// What could not be compared, by path, and why.
    pub failures: Vec<(Vec<u8>, Error)>,
}

/// Failures that are kept; more are counted by nobody, for each names a place.
const FAILURES_MAX: usize = 10_000;

/// Tell `sink` each difference between `before` and `after`, in the order of names, until it breaks. What cannot be
/// read is in the summary and ends nothing.
pub fn trees(
    before: &dyn Dir,
    after: &dyn Dir,
    options: Options,
    sink: &mut dyn FnMut(Difference) -> ControlFlow<()>,
) -> Summary {
    let mut walk = Walk { options, sink, summary: Summary::default(), buffers: content::Buffers::default() };
    let _stopped = walk.both(before, after, &mut Vec::new(), 0);
    walk.summary
}

struct Walk<'a> {
    options: Options,
    sink: &'a mut dyn FnMut(Difference) -> ControlFlow<()>,
    summary: Summary,
    buffers: content::Buffers,
}

type Names = BTreeMap<Vec<u8>, Kind>;

impl Walk<'_> {
    fn fail(&mut self, path: &[u8], error: Error) {
        if self.summary.failures.len() < FAILURES_MAX {
            self.summary.failures.push((path.to_vec(), error));
        }
    }

    fn tell(&mut self, path: &[u8], kind: Kind, change: Change) -> ControlFlow<()> {
        match change {
            Change::Added(_) => self.summary.added += 1,
            Change::Removed(_) => self.summary.removed += 1,
            Change::Changed { .. } => self.summary.changed += 1,
        }
        (self.sink)(Difference { path: path.to_vec(), kind, change })
    }

    /// The names in `dir`; those before a damaged place, when there is one.
    fn names(&mut self, dir: &dyn Dir, path: &[u8]) -> (Names, bool) {
        let mut names = Names::new();
        let listed = dir.list(0, &mut |entry| {
            names.insert(entry.name, entry.kind);
            if names.len() < ENTRIES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        self.summary.entries += names.len() as u64;
        let whole = listed.is_ok() && names.len() < ENTRIES_MAX;
        if let Err(e) = listed {
            self.fail(path, e);
        } else if !whole {
            self.fail(path, Error::new(ErrorKind::Limit, format!("a folder with more than {ENTRIES_MAX} entries")));
        }
        (names, whole)
    }

    fn both(&mut self, before: &dyn Dir, after: &dyn Dir, path: &mut Vec<u8>, depth: usize) -> ControlFlow<()> {
        if depth > DEPTH_MAX {
            self.fail(path, Error::new(ErrorKind::Limit, "too many folders in each other"));
            return ControlFlow::Continue(());
        }
        let (old, old_whole) = self.names(before, path);
        let (new, new_whole) = self.names(after, path);
        let mut all: Vec<&[u8]> = old.keys().chain(new.keys()).map(Vec::as_slice).collect();
        all.sort_unstable();
        all.dedup();
        for name in all {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let flow = match (old.contains_key(name), new.contains_key(name)) {
                (true, true) => self.pair(before, after, name, path, depth),
                // What is not in a listing that broke off is not known to be missing.
                (true, false) if new_whole => self.one(before, name, path, depth, false),
                (false, true) if old_whole => self.one(after, name, path, depth, true),
                _ => ControlFlow::Continue(()),
            };
            path.truncate(length);
            flow?;
        }
        ControlFlow::Continue(())
    }

    /// An entry that only one has, and all that is in it.
    fn one(&mut self, dir: &dyn Dir, name: &[u8], path: &mut Vec<u8>, depth: usize, added: bool) -> ControlFlow<()> {
        let (node, attributes) = match self.found(dir, name) {
            Ok(found) => found,
            Err(e) => {
                self.fail(path, e);
                return ControlFlow::Continue(());
            }
        };
        let size = size(&attributes);
        self.tell(path, attributes.kind, if added { Change::Added(size) } else { Change::Removed(size) })?;
        let Node::Dir(inner) = node else { return ControlFlow::Continue(()) };
        if depth > DEPTH_MAX {
            self.fail(path, Error::new(ErrorKind::Limit, "too many folders in each other"));
            return ControlFlow::Continue(());
        }
        let (names, _) = self.names(inner.as_ref(), path);
        for name in names.keys() {
            let length = path.len();
            path.push(b'/');
            path.extend_from_slice(name);
            let flow = self.one(inner.as_ref(), name, path, depth + 1, added);
            path.truncate(length);
            flow?;
        }
        ControlFlow::Continue(())
    }

    fn found(&self, dir: &dyn Dir, name: &[u8]) -> Result<(Node, Attributes)> {
        let node = dir.lookup(name)?.ok_or_else(|| Error::damaged("it is listed and cannot be found"))?;
        let attributes = node.inode().attributes()?;
        Ok((node, attributes))
    }

    fn pair(
        &mut self,
        before: &dyn Dir,
        after: &dyn Dir,
        name: &[u8],
        path: &mut Vec<u8>,
        depth: usize,
    ) -> ControlFlow<()> {
        let found = self.found(before, name).and_then(|old| Ok((old, self.found(after, name)?)));
        let compared = found.and_then(|(old, new)| Ok((self.what(&old, &new)?, old, new)));
        match compared {
            Err(e) => self.fail(path, e),
            Ok((what, (old, old_attributes), (new, new_attributes))) => {
                if !what.is_empty() {
                    let (before, after) = (size(&old_attributes), size(&new_attributes));
                    self.tell(path, new_attributes.kind, Change::Changed { before, after, what })?;
                }
                if let (Node::Dir(old), Node::Dir(new)) = (old, new) {
                    return self.both(old.as_ref(), new.as_ref(), path, depth + 1);
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// What differs between two of the same name.
    fn what(&mut self, (old, a): &(Node, Attributes), (new, b): &(Node, Attributes)) -> Result<Vec<&'static str>> {
        let mut what = Vec::new();
        if a.kind != b.kind {
            return Ok(vec!["type"]);
        }
        // The time of the last change of the inode says that nothing at all has changed: nobody can set it.
        let untouched = (a.size, a.mtime, a.ctime) == (b.size, b.mtime, b.ctime);
        match (old, new) {
            (Node::File(old), Node::File(new)) => {
                let trust = match self.options {
                    Options { content: true, .. } => Trust::Nothing,
                    _ if !untouched => Trust::Nothing,
                    Options { shared: true, .. } => Trust::Unknown,
                    _ => Trust::All,
                };
                if a.size != b.size || self.differ(old.as_ref(), new.as_ref(), trust)? {
                    what.push("content");
                }
            }
            (Node::Symlink(old), Node::Symlink(new)) if !untouched && old.target()? != new.target()? => {
                what.push("target");
            }
            _ => {}
        }
        if a.permissions != b.permissions {
            what.push("mode");
        }
        if (a.uid, a.gid) != (b.uid, b.gid) {
            what.push("owner");
        }
        if a.rdev != b.rdev {
            what.push("device");
        }
        // A folder's time tells of its entries, which are compared themselves.
        if a.mtime != b.mtime && a.kind != Kind::Dir {
            what.push("mtime");
        }
        if !untouched && old.inode().xattrs()? != new.inode().xattrs()? {
            what.push("xattrs");
        }
        Ok(what)
    }

    fn differ(&mut self, old: &dyn File, new: &dyn File, trust: Trust) -> Result<bool> {
        if trust == Trust::All || (old.identity().is_some() && old.identity() == new.identity()) {
            return Ok(false);
        }
        if let (Some(old), Some(new)) = (old.digest()?, new.digest()?)
            && old.algorithm == new.algorithm
        {
            return Ok(old.value != new.value);
        }
        let (old, new) = (old.open()?, new.open()?);
        content::differ(old.as_ref(), new.as_ref(), trust, &mut self.buffers, &mut self.summary.bytes_read)
    }
}

/// The size that is shown: a folder has none.
fn size(attributes: &Attributes) -> u64 {
    if attributes.kind == Kind::File { attributes.size } else { 0 }
}
