//! Where nodes come from.
//!
//! One module a top folder of the tree: [`jobs`] as they were stored, [`clients`] with their restore points;
//! [`stored`] makes the nodes of backup files, which both show.

pub mod clients;
pub mod jobs;
mod stored;

use std::{ops::ControlFlow, sync::Arc};

use blockdev::Result;
use volreader::archive::Archive;

use crate::node::{Attributes, Dir, Entry, Inode, Kind, Node, Time, Xattr};

/// The inode number of the tree's root.
pub const ROOT_INO: u64 = 1;

/// The tree of an archive.
#[must_use]
pub fn tree(archive: &Arc<Archive>) -> Node {
    let shared = stored::Shared::new(archive);
    let tops = vec![
        (&b"jobs"[..], Arc::new(jobs::Jobs::new(Arc::clone(&shared))) as Arc<dyn Dir>),
        (b"clients", Arc::new(clients::Clients::new(shared))),
    ];
    Node::Dir(Arc::new(Root(tops)))
}

struct Root(Vec<(&'static [u8], Arc<dyn Dir>)>);

impl Inode for Root {
    fn attributes(&self) -> Result<Attributes> {
        Ok(folder_attributes(ROOT_INO, Time::default()))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl Dir for Root {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        Ok(self.0.iter().find(|(n, _)| *n == name).map(|(_, dir)| Node::Dir(Arc::clone(dir))))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        for ((name, dir), cookie) in self.0.iter().zip(1..).skip(cookie as usize) {
            let ino = dir.attributes()?.ino;
            if sink(Entry { name: name.to_vec(), kind: Kind::Dir, ino, cookie }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Attributes of a folder of ours.
fn folder_attributes(ino: u64, time: Time) -> Attributes {
    Attributes {
        ino,
        kind: Kind::Dir,
        permissions: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: (0, 0),
        size: 0,
        allocated: 0,
        atime: time,
        mtime: time,
        ctime: time,
    }
}

/// An inode number for the thing that `parts` name, the same each time. 64 bits of hash: two of a thousand
/// million files share one with a chance of one in forty; then one is taken for a link of the other.
fn ino(parts: &[&[u8]]) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::with_seed(0x0072_6576_656e_616e);
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    // 0 and 1 mean something to FUSE.
    hash.digest().max(2)
}
