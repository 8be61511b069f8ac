//! A tree in memory that holds everything a backup can hold, and the means to compare a real one with it.
#![allow(dead_code, reason = "every test program uses another part")]

pub mod compare;
pub mod content;
pub mod sample;

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{ReadAt, Result};
use content::Content;
use vfs::node::{Attributes, Dir, Entry, File, Inode, Kind, Node, StoredDigest, Symlink, Time, Xattr};

/// One node of the tree.
#[derive(Clone)]
pub struct Mem {
    pub attributes: Attributes,
    pub xattrs: Vec<Xattr>,
    pub body: Body,
    pub digest: Option<StoredDigest>,
}

#[derive(Clone)]
pub enum Body {
    Dir(Vec<(Vec<u8>, Arc<Mem>)>),
    File(Arc<Content>),
    Symlink(Vec<u8>),
    Special,
}

impl Mem {
    fn new(kind: Kind, permissions: u32, body: Body) -> Self {
        let time = Time { seconds: 1_600_000_000, nanos: 123_456_789 };
        let attributes = Attributes {
            ino: 0,
            kind,
            permissions,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            size: 0,
            allocated: 0,
            atime: time,
            mtime: time,
            ctime: time,
        };
        Self { attributes, xattrs: Vec::new(), body, digest: None }
    }

    pub fn file(content: Content) -> Self {
        let mut mem = Self::new(Kind::File, 0o644, Body::Special);
        mem.attributes.size = content.size();
        mem.attributes.allocated = content.stored();
        mem.body = Body::File(Arc::new(content));
        mem
    }

    pub fn symlink(target: &[u8]) -> Self {
        let mut mem = Self::new(Kind::Symlink, 0o777, Body::Symlink(target.to_vec()));
        mem.attributes.size = target.len() as u64;
        mem
    }

    pub fn special(kind: Kind, rdev: (u32, u32)) -> Self {
        let mut mem = Self::new(kind, 0o600, Body::Special);
        mem.attributes.rdev = rdev;
        mem
    }

    /// A directory; entries are sorted by name.
    pub fn dir(entries: impl IntoIterator<Item = (Vec<u8>, Arc<Mem>)>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let dirs = entries.iter().filter(|(_, n)| n.attributes.kind == Kind::Dir).count();
        let mut mem = Self::new(Kind::Dir, 0o755, Body::Dir(entries));
        mem.attributes.nlink = 2 + dirs as u32;
        mem
    }

    pub fn ino(mut self, ino: u64) -> Self {
        self.attributes.ino = ino;
        self
    }

    pub fn mode(mut self, permissions: u32) -> Self {
        self.attributes.permissions = permissions;
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.attributes.uid, self.attributes.gid) = (uid, gid);
        self
    }

    pub fn mtime(mut self, seconds: i64, nanos: u32) -> Self {
        self.attributes.mtime = Time { seconds, nanos };
        self.attributes.atime = Time { seconds: seconds + 1, nanos };
        self
    }

    pub fn nlink(mut self, nlink: u32) -> Self {
        self.attributes.nlink = nlink;
        self
    }

    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push(Xattr { name: name.into(), value: value.into() });
        self
    }

    pub fn entries(&self) -> &[(Vec<u8>, Arc<Mem>)] {
        match &self.body {
            Body::Dir(entries) => entries,
            _ => &[],
        }
    }

    pub fn content(&self) -> Option<&Arc<Content>> {
        match &self.body {
            Body::File(content) => Some(content),
            _ => None,
        }
    }
}

/// The node as a door takes it.
pub fn node(mem: Arc<Mem>) -> Node {
    match mem.body {
        Body::Dir(_) => Node::Dir(mem),
        Body::File(_) => Node::File(mem),
        Body::Symlink(_) => Node::Symlink(mem),
        Body::Special => Node::Special(mem),
    }
}

impl Inode for Mem {
    fn attributes(&self) -> Result<Attributes> {
        Ok(self.attributes.clone())
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(self.xattrs.clone())
    }
}

impl Dir for Mem {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let entries = self.entries();
        Ok(entries.binary_search_by(|e| e.0.as_slice().cmp(name)).ok().map(|n| node(entries[n].1.clone())))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        for (n, (name, mem)) in self.entries().iter().enumerate().skip(cookie as usize) {
            let (kind, ino) = (mem.attributes.kind, mem.attributes.ino);
            if sink(Entry { name: name.clone(), kind, ino, cookie: n as u64 + 1 }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl File for Mem {
    fn open(&self) -> Result<Arc<dyn ReadAt>> {
        match &self.body {
            Body::File(content) => Ok(content.clone()),
            _ => unreachable!("only files are opened"),
        }
    }

    fn digest(&self) -> Result<Option<StoredDigest>> {
        Ok(self.digest.clone())
    }
}

impl Symlink for Mem {
    fn target(&self) -> Result<Vec<u8>> {
        match &self.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => unreachable!("only links are read"),
        }
    }
}

/// Whether a filesystem can be mounted here; otherwise says that the test is skipped.
pub fn can_mount(test: &str) -> bool {
    let can = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    if !can {
        eprintln!("{test}: skipped, /dev/fuse cannot be used here");
    }
    can
}

/// Whether this is root; otherwise says that the test is skipped.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("{test}: skipped, it needs root");
    }
    root
}
