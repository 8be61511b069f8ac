//! The files as the guest saw them: its filesystems where it had them mounted, or by their drive letters.
//!
//! The guest says so itself (its `fstab`, its registry). A folder in which nothing is mounted further down is the
//! filesystem's own.

use std::{ops::ControlFlow, sync::Arc};

use blockdev::Result;
use guestfs::os::MountPoint;

use super::{
    node,
    volumes::{Guest, Volumes},
};
use crate::{
    node::{Attributes, Dir, Entry, Inode, Kind, Node, Xattr},
    providers::{folder::Child, ino},
};

/// The mount points of a guest, by their path.
type Mounts = Vec<(Path, Arc<dyn Dir>)>;

/// The parts of an absolute path of the guest.
type Path = Vec<Vec<u8>>;

/// The folders `root`, or `C:` and so on, of the guest on `volumes`.
pub fn of(volumes: &Volumes, guest: &Guest) -> Vec<Child> {
    let Some(system) = volumes.system() else { return Vec::new() };
    let dir = |mount: &MountPoint| -> Option<(Vec<u8>, Arc<dyn Dir>)> {
        let shown = volumes.shown.get(mount.volume)?;
        // Seen in two places, a folder is two folders: with numbers of their own.
        let dir = node::dir(&shown.mount.seen_at(&mount.path), mount.directory).ok()?;
        Some((mount.path.clone(), dir))
    };
    let seen: Vec<_> = system.mounts.iter().filter_map(dir).collect();
    let mut children = Vec::new();
    let mut mounts = Mounts::new();
    for (path, dir) in seen {
        match path.as_slice() {
            [b'/', ..] => mounts.push((parts(&path), dir)),
            letter => {
                let ino = guest.ino(&[b"letter", letter]);
                children.push(Child::new(letter, Kind::Dir, ino, Node::Dir(Arc::new(Renumbered { dir, ino }))));
            }
        }
    }
    if let Some((_, root)) = mounts.iter().find(|(path, _)| path.is_empty()) {
        let (ino, dir) = (guest.ino(&[b"root"]), Arc::clone(root));
        let seen = Seen { dir, ino, here: Vec::new(), mounts: Arc::new(mounts) };
        children.push(Child::new("root", Kind::Dir, ino, Node::Dir(Arc::new(seen))));
    }
    children
}

fn parts(path: &[u8]) -> Path {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
}

/// A folder in or below which something is mounted.
struct Seen {
    dir: Arc<dyn Dir>,
    ino: u64,
    /// Its path in the guest.
    here: Path,
    mounts: Arc<Mounts>,
}

impl Seen {
    /// What `name` is, when something is mounted there or below: the folder that is seen.
    fn special(&self, name: &[u8]) -> Option<(Path, Option<&Arc<dyn Dir>>)> {
        let path = [&self.here[..], &[name.to_vec()]].concat();
        let mounted = self.mounts.iter().find(|(at, _)| *at == path).map(|(_, dir)| dir);
        (mounted.is_some() || self.mounts.iter().any(|(at, _)| at.starts_with(&path))).then_some((path, mounted))
    }

    fn child_ino(&self, name: &[u8]) -> u64 {
        ino(&[b"seen", &self.ino.to_le_bytes(), name])
    }
}

impl Inode for Seen {
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes { ino: self.ino, ..self.dir.attributes()? })
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        self.dir.xattrs()
    }

    fn alternate_streams(&self) -> Result<Vec<(Vec<u8>, Node)>> {
        self.dir.alternate_streams()
    }
}

impl Dir for Seen {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let Some((path, mounted)) = self.special(name) else { return self.dir.lookup(name) };
        let dir = match (mounted, self.dir.lookup(name)?) {
            (Some(mounted), _) => Arc::clone(mounted),
            (None, Some(Node::Dir(dir))) => dir,
            (None, other) => return Ok(other),
        };
        let seen = Self { dir, ino: self.child_ino(name), here: path, mounts: Arc::clone(&self.mounts) };
        Ok(Some(Node::Dir(Arc::new(seen))))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        self.dir.list(cookie, &mut |entry| {
            let special = entry.kind == Kind::Dir && self.special(&entry.name).is_some();
            sink(if special { Entry { ino: self.child_ino(&entry.name), ..entry } } else { entry })
        })
    }
}

/// A folder under another number.
struct Renumbered {
    dir: Arc<dyn Dir>,
    ino: u64,
}

impl Inode for Renumbered {
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes { ino: self.ino, ..self.dir.attributes()? })
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        self.dir.xattrs()
    }

    fn alternate_streams(&self) -> Result<Vec<(Vec<u8>, Node)>> {
        self.dir.alternate_streams()
    }
}

impl Dir for Renumbered {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        self.dir.lookup(name)
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        self.dir.list(cookie, sink)
    }
}
