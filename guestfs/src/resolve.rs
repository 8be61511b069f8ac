//! Paths as the guest resolves them: through its own mounts and its own symbolic links, never out of it.
//!
//! A link in a guest that says `/etc/passwd` means the guest's. Links are therefore followed here and nowhere else, a
//! bounded number of them, and `..` never leads above the guest's root.

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{BlockSizes, Error, ErrorKind, Result, images::Disk};

use crate::{FileId, FileSystem, Kind};

/// Symbolic links that a path may lead through: as many as Linux follows.
const LINKS_MAX: usize = 40;

/// Components that a path may have, those of the links on its way included: more than `PATH_MAX` has room for.
const COMPONENTS_MAX: usize = 4096;

/// Filesystems, mounted in each other as in the guest.
#[derive(Clone)]
pub struct View {
    /// The first is the root.
    mounts: Vec<Mount>,
    ignores_case: bool,
}

#[derive(Clone)]
struct Mount {
    at: Vec<Vec<u8>>,
    fs: Arc<dyn FileSystem>,
    dir: FileId,
}

/// A file that a path led to.
#[derive(Clone)]
pub struct Found {
    /// The filesystem it is in.
    pub fs: Arc<dyn FileSystem>,
    /// The file.
    pub id: FileId,
    /// Its type, never that of a symbolic link.
    pub kind: Kind,
}

impl View {
    /// A guest whose root is the directory `dir` of `fs`.
    #[must_use]
    pub fn new(fs: Arc<dyn FileSystem>, dir: FileId) -> Self {
        Self { mounts: vec![Mount { at: Vec::new(), fs, dir }], ignores_case: false }
    }

    /// The same, where names are found in any case, as on Windows.
    #[must_use]
    pub fn ignoring_case(self) -> Self {
        Self { ignores_case: true, ..self }
    }

    /// Mount the directory `dir` of `fs` at the absolute path `at`; over `/`, it becomes the root.
    pub fn mount(&mut self, at: &[u8], fs: Arc<dyn FileSystem>, dir: FileId) {
        let at: Vec<_> = components(at).map(<[u8]>::to_vec).collect();
        self.mounts.retain(|mount| mount.at != at);
        let mount = Mount { at, fs, dir };
        let place = if mount.at.is_empty() { 0 } else { self.mounts.len() };
        self.mounts.insert(place, mount);
    }

    /// The file at `path`, which is taken from the root; `None` when it, or what a link on the way means, is not there.
    ///
    /// # Errors
    ///
    /// When a directory or link on the way cannot be read; `Limit` when there are too many links, which includes links
    /// that lead to themselves.
    pub fn find(&self, path: &[u8]) -> Result<Option<Found>> {
        let mut todo: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        // The way so far, without links and `..`.
        let mut names: Vec<Vec<u8>> = Vec::new();
        let Some(root) = self.mounted(&[]) else { return Ok(None) };
        let mut way = vec![root];
        let mut links = 0;
        while let Some(name) = todo.pop() {
            let Some(here) = way.last() else { return Ok(None) };
            match name.as_slice() {
                b"." => continue,
                b".." => {
                    if names.pop().is_some() {
                        way.pop();
                    }
                    continue;
                }
                _ if here.kind != Kind::Dir => return Ok(None),
                _ => {}
            }
            names.push(name);
            if let Some(mounted) = self.mounted(&names) {
                way.push(mounted);
                continue;
            }
            let Some(name) = names.last() else { return Ok(None) };
            let Some(id) = self.lookup(here, name)? else { return Ok(None) };
            let kind = here.fs.metadata(id)?.kind;
            if kind != Kind::Symlink {
                way.push(Found { fs: Arc::clone(&here.fs), id, kind });
                continue;
            }
            links += 1;
            let target = here.fs.link_target(id)?;
            todo.extend(components(&target).rev().map(<[u8]>::to_vec));
            if links > LINKS_MAX || todo.len() > COMPONENTS_MAX {
                let path = String::from_utf8_lossy(path);
                return Err(Error::new(ErrorKind::Limit, format!("{path} leads through too many symbolic links")));
            }
            names.pop();
            if target.first() == Some(&b'/') {
                names.clear();
                way.truncate(1);
            }
        }
        Ok(way.pop())
    }

    /// The first `max` bytes of the regular file at `path`; `None` when there is none.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find), and when it cannot be read.
    pub fn read(&self, path: &[u8], max: usize) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        blockdev::fields::read(&file, 0, max).map(Some)
    }

    /// The regular file at `path`, to be read; `None` when there is none.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find), and when where it is cannot be read.
    pub fn open(&self, path: &[u8]) -> Result<Option<Disk>> {
        match self.find(path)? {
            Some(Found { fs, id, kind: Kind::File }) => Disk::new(vec![fs.content(id)?], BlockSizes::CLASSIC).map(Some),
            _ => Ok(None),
        }
    }

    /// The names in the directory at `path`, at most `max`; none when there is no such directory.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find), and when it cannot be read.
    pub fn names(&self, path: &[u8], max: usize) -> Result<Vec<Vec<u8>>> {
        let Some(Found { fs, id, kind: Kind::Dir }) = self.find(path)? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        fs.list(id, 0, &mut |entry| {
            names.push(entry.name);
            if names.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(names)
    }

    fn mounted(&self, at: &[Vec<u8>]) -> Option<Found> {
        let mount = self.mounts.iter().find(|mount| mount.at == at)?;
        Some(Found { fs: Arc::clone(&mount.fs), id: mount.dir, kind: Kind::Dir })
    }

    fn lookup(&self, dir: &Found, name: &[u8]) -> Result<Option<FileId>> {
        if self.ignores_case { lookup_any_case(dir.fs.as_ref(), dir.id, name) } else { dir.fs.lookup(dir.id, name) }
    }
}

/// The entry of `dir` that is called `name` in any case: the one so spelled, or else the first that differs in case only.
///
/// # Errors
///
/// When `dir` is not a directory or cannot be read.
pub fn lookup_any_case(fs: &dyn FileSystem, dir: FileId, name: &[u8]) -> Result<Option<FileId>> {
    if let Some(id) = fs.lookup(dir, name)? {
        return Ok(Some(id));
    }
    let mut found = None;
    let listed = fs.list(dir, 0, &mut |entry| {
        if !eq_any_case(&entry.name, name) {
            return ControlFlow::Continue(());
        }
        found = Some(entry.id);
        ControlFlow::Break(())
    });
    // What was found before the damaged place is there all the same.
    if found.is_none() {
        listed?;
    }
    Ok(found)
}

/// Whether two names differ in case only, as Windows sees it: character by character, without changes of length.
#[must_use]
pub fn eq_any_case(a: &[u8], b: &[u8]) -> bool {
    let (Ok(a), Ok(b)) = (std::str::from_utf8(a), std::str::from_utf8(b)) else { return a.eq_ignore_ascii_case(b) };
    a.chars().map(upper).eq(b.chars().map(upper))
}

fn upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !name.is_empty())
}
