//! A tree in memory, for the tests of the doors that serve trees and for their fuzz target.
#![allow(dead_code, reason = "each user takes a part")]

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use blockdev::{Error, Extent, ExtentKind, MappedRun, ReadAt, Result};
use vfs::node::{Attributes, Dir, Entry, File, Inode, Kind, Node, StoredDigest, Symlink, Time, Xattr};

/// A node of the tree.
pub struct Item {
    pub attributes: Attributes,
    pub children: Vec<(Vec<u8>, Node)>,
    pub bytes: Vec<u8>,
    /// How long a read takes.
    pub delay: Duration,
    /// Reads fail.
    pub bad: bool,
    /// How often it was opened.
    pub opened: AtomicUsize,
}

impl Item {
    fn new(ino: u64, kind: Kind, permissions: u32) -> Self {
        let time = Time { seconds: 1_700_000_000, nanos: 5 };
        let attributes = Attributes {
            ino,
            kind,
            permissions,
            nlink: 1,
            uid: 1000,
            gid: 100,
            rdev: (0, 0),
            size: 0,
            allocated: 0,
            atime: time,
            mtime: time,
            ctime: time,
        };
        let (children, bytes) = (Vec::new(), Vec::new());
        Self { attributes, children, bytes, delay: Duration::ZERO, bad: false, opened: AtomicUsize::new(0) }
    }
}

/// A directory with these children.
pub fn folder(ino: u64, children: Vec<(&str, Node)>) -> Node {
    let children = children.into_iter().map(|(name, node)| (name.as_bytes().to_vec(), node)).collect();
    Node::Dir(Arc::new(Item { children, ..Item::new(ino, Kind::Dir, 0o755) }))
}

/// A file with this mode and content.
pub fn file(ino: u64, permissions: u32, bytes: Vec<u8>) -> Node {
    special_file(ino, permissions, bytes, |_| {})
}

/// A file that `change` has changed.
pub fn special_file(ino: u64, permissions: u32, bytes: Vec<u8>, change: impl FnOnce(&mut Item)) -> Node {
    let mut item = Item { bytes, ..Item::new(ino, Kind::File, permissions) };
    (item.attributes.size, item.attributes.allocated) = (item.bytes.len() as u64, item.bytes.len() as u64);
    change(&mut item);
    Node::File(Arc::new(item))
}

/// A symbolic link.
pub fn link(ino: u64, target: &str) -> Node {
    Node::Symlink(Arc::new(Item { bytes: target.as_bytes().to_vec(), ..Item::new(ino, Kind::Symlink, 0o777) }))
}

/// A fifo.
pub fn fifo(ino: u64) -> Node {
    Node::Special(Arc::new(Item::new(ino, Kind::Fifo, 0o644)))
}

impl Inode for Item {
    fn attributes(&self) -> Result<Attributes> {
        Ok(self.attributes.clone())
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl Dir for Item {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        Ok(self.children.iter().find(|(n, _)| n == name).map(|(_, node)| node.clone()))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        for ((name, node), cookie) in self.children.iter().zip(1..).skip(usize::try_from(cookie).unwrap_or(usize::MAX))
        {
            let Attributes { ino, kind, .. } = node.inode().attributes()?;
            if sink(Entry { name: name.clone(), kind, ino, cookie }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl File for Item {
    fn open(&self) -> Result<Arc<dyn ReadAt>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(Content { bytes: self.bytes.clone(), delay: self.delay, bad: self.bad }))
    }

    fn digest(&self) -> Result<Option<StoredDigest>> {
        Ok(None)
    }
}

impl Symlink for Item {
    fn target(&self) -> Result<Vec<u8>> {
        Ok(self.bytes.clone())
    }
}

struct Content {
    bytes: Vec<u8>,
    delay: Duration,
    bad: bool,
}

impl ReadAt for Content {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        std::thread::sleep(self.delay);
        if self.bad {
            return Err(Error::damaged("the test wants this read to fail"));
        }
        self.bytes.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let end = self.size();
        Ok((offset < end).then_some(Extent { range: offset..end, kind: ExtentKind::Data }))
    }

    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

/// The tree that the fuzz target serves, and that the traffic in `fuzz/seeds/nfs_requests` was recorded with.
pub fn sample() -> Node {
    let many: Vec<(String, Node)> =
        (0..40).map(|n| (format!("entry {n}"), file(100 + n, 0o644, vec![7; 50]))).collect();
    let many = many.iter().map(|(name, node)| (name.as_str(), node.clone())).collect();
    folder(
        1,
        vec![
            ("file", file(10, 0o644, (0..100_000).map(|i| (i % 251) as u8).collect())),
            ("secret", file(11, 0o600, b"secret".to_vec())),
            ("link", link(12, "folder/inner/file")),
            ("fifo", fifo(13)),
            ("bad", special_file(14, 0o644, vec![1; 100], |item| item.bad = true)),
            ("folder", folder(20, vec![("inner", folder(21, vec![("file", file(22, 0o444, b"inner".to_vec()))]))])),
            ("many", folder(30, many)),
        ],
    )
}
