//! `files/<disk>/<volume>/...`: the files of the guest, out of its disks; and `files/root/...` (or `files/C:/...`), as
//! the guest itself saw them.
//!
//! The disks are opened, and their `volumes` looked for, when the folder of a disk is first looked into; a filesystem
//! when its volume is (`mount`). A volume that lies on several disks is shown at the first, and linked from the
//! others. `node` makes nodes of a filesystem's files, with `names` that the tree can show; `view` puts filesystems
//! together as the guest had them mounted.

mod mount;
mod names;
mod node;
mod view;
mod volumes;

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use blockdev::Result;

use self::volumes::Shown;
pub use self::volumes::{Guest, NamedDisk};
use super::folder::{Child, Folder, kept, link};
use crate::node::{Attributes, Dir, Entry, Inode, Kind, Node, Xattr};

/// The folder `files` of `guest`: a folder for each disk, or the volumes of its only one.
pub fn folder(guest: Arc<Guest>, by_disk: bool) -> Child {
    let ino = guest.ino(&[b"files"]);
    let files = Files { guest, by_disk, of_disks: OnceLock::new(), of_guest: OnceLock::new() };
    Child::new("files", Kind::Dir, ino, Node::Dir(Arc::new(files)))
}

struct Files {
    guest: Arc<Guest>,
    by_disk: bool,
    /// Its children, when they have been made. A failure is not kept.
    of_disks: OnceLock<Vec<Child>>,
    of_guest: OnceLock<Vec<Child>>,
}

impl Files {
    /// The children that the disks tell.
    fn own(&self) -> Result<&[Child]> {
        kept(&self.of_disks, || self.of_disks())
    }

    /// The children that the guest tells.
    fn seen(&self) -> Result<&[Child]> {
        kept(&self.of_guest, || self.of_guest(self.own()?))
    }

    /// What is told by the disks: folders of disks, or the volumes of the only one.
    fn of_disks(&self) -> Result<Vec<Child>> {
        let guest = &self.guest;
        if !self.by_disk {
            return guest.disks().next().map_or_else(|| Ok(Vec::new()), |disk| of_disk(guest, disk));
        }
        let folder = |name: &str| {
            let (guest, disk) = (Arc::clone(guest), name.to_owned());
            let ino = guest.ino(&[b"files", name.as_bytes()]);
            Child::folder(name, Folder::lazy(ino, guest.time(), move || of_disk(&guest, &disk)))
        };
        Ok(guest.disks().map(folder).collect())
    }

    /// What is told by the guest, which may be wrong: it comes last, and hides nothing.
    fn of_guest(&self, taken: &[Child]) -> Result<Vec<Child>> {
        let volumes = self.guest.volumes()?;
        let mut seen = view::of(&volumes, &self.guest);
        seen.retain(|child| !taken.iter().any(|t| t.name() == child.name()));
        Ok(seen)
    }
}

impl Inode for Files {
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::of_folder(self.guest.ino(&[b"files"]), self.guest.time()))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl Dir for Files {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        if let Some(child) = self.own()?.iter().find(|c| c.name() == name) {
            return Ok(Some(child.node()));
        }
        Ok(self.seen()?.iter().find(|c| c.name() == name).map(Child::node))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        let children = self.own()?.iter().chain(self.seen()?);
        for (child, cookie) in children.zip(1..).skip(cookie as usize) {
            if sink(child.entry(cookie)).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The volumes that have a part on the disk `name`.
fn of_disk(guest: &Guest, name: &str) -> Result<Vec<Child>> {
    // A disk that cannot be opened says so itself, whatever the others are.
    guest.try_disk(name)?;
    let child = |shown: &Shown| {
        let place = shown.disks.iter().find(|d| guest.disks().any(|own| own == *d))?;
        if !shown.disks.iter().any(|d| d == name) {
            return None;
        }
        if place != name {
            let target = format!("../{place}/{}", shown.name);
            let ino = guest.ino(&[b"link", name.as_bytes(), shown.name.as_bytes()]);
            return Some(link(shown.name.as_str(), target, ino, guest.time()));
        }
        let root = node::root(&shown.mount);
        Some(Child::new(shown.name.as_str(), Kind::Dir, shown.mount.place().0, Node::Dir(root)))
    };
    Ok(guest.volumes()?.shown.iter().filter_map(child).collect())
}
