//! Folders of ours, as opposed to stored ones: children that are made when they are first wanted.

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use blockdev::Result;

use crate::node::{Attributes, Dir, Entry, Inode, Kind, Node, Symlink, Time, Xattr};

/// A child of a [`Folder`]. Listing it must not open it: what a listing tells is here.
pub struct Child {
    name: Vec<u8>,
    kind: Kind,
    ino: u64,
    node: Node,
}

impl Child {
    /// `node`, whose attributes have this `kind` and `ino`.
    pub fn new(name: impl Into<Vec<u8>>, kind: Kind, ino: u64, node: Node) -> Self {
        Self { name: name.into(), kind, ino, node }
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The node.
    pub fn node(&self) -> Node {
        self.node.clone()
    }

    /// Its line in a listing.
    pub fn entry(&self, cookie: u64) -> Entry {
        Entry { name: self.name.clone(), kind: self.kind, ino: self.ino, cookie }
    }

    /// A folder of ours.
    pub fn folder(name: impl Into<Vec<u8>>, folder: Folder) -> Self {
        Self::new(name, Kind::Dir, folder.ino, Node::Dir(Arc::new(folder)))
    }
}

/// Makes the children of a folder.
type Make = Box<dyn Fn() -> Result<Vec<Child>> + Send + Sync>;

/// A folder with a number and a time.
pub struct Folder {
    ino: u64,
    time: Time,
    children: OnceLock<Vec<Child>>,
    make: Make,
}

impl Folder {
    /// With children that are known.
    pub fn of(ino: u64, time: Time, children: Vec<Child>) -> Self {
        Self { ino, time, children: OnceLock::from(children), make: Box::new(|| Ok(Vec::new())) }
    }

    /// With children that `make` makes once, when they are first wanted. When it fails it is asked again next time.
    pub fn lazy(ino: u64, time: Time, make: impl Fn() -> Result<Vec<Child>> + Send + Sync + 'static) -> Self {
        Self { ino, time, children: OnceLock::new(), make: Box::new(make) }
    }

    fn children(&self) -> Result<&[Child]> {
        kept(&self.children, &self.make)
    }
}

/// The children in `place`, made by `make` when they are first wanted. A failure is not kept.
pub fn kept(place: &OnceLock<Vec<Child>>, make: impl FnOnce() -> Result<Vec<Child>>) -> Result<&[Child]> {
    if place.get().is_none() {
        let _somebody_was_faster = place.set(make()?);
    }
    Ok(place.get().map_or(&[], Vec::as_slice))
}

impl Inode for Folder {
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::of_folder(self.ino, self.time))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl Dir for Folder {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let children = self.children()?;
        if let Some(exact) = children.iter().find(|c| c.name == name) {
            return Ok(Some(exact.node.clone()));
        }
        // `@2026-11-20T02:00` means the one point that starts so.
        let mut starting = children.iter().filter(|c| name.starts_with(b"@") && c.name.starts_with(name));
        match (starting.next(), starting.next()) {
            (Some(only), None) => Ok(Some(only.node.clone())),
            _ => Ok(None),
        }
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        for (child, cookie) in self.children()?.iter().zip(1..).skip(cookie as usize) {
            if sink(child.entry(cookie)).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The symbolic link `name` of ours.
pub fn link(name: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>, ino: u64, time: Time) -> Child {
    let link = Link { target: target.into(), ino, time };
    Child::new(name, Kind::Symlink, ino, Node::Symlink(Arc::new(link)))
}

struct Link {
    target: Vec<u8>,
    ino: u64,
    time: Time,
}

impl Inode for Link {
    fn attributes(&self) -> Result<Attributes> {
        let size = self.target.len() as u64;
        let file = Attributes::of_file(self.ino, 0o777, size, self.time);
        Ok(Attributes { kind: Kind::Symlink, allocated: 0, ..file })
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl Symlink for Link {
    fn target(&self) -> Result<Vec<u8>> {
        Ok(self.target.clone())
    }
}
