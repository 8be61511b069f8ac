//! The nodes of a guest's files: a filesystem of [`guestfs`] as a part of the tree.

use std::{
    borrow::Cow,
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use blockdev::{
    BlockSizes, Error, ReadAt, Result,
    images::{Disk, layer::Layer},
};
use guestfs::{FileId, FileSystem, Metadata};

use super::{
    mount::Mount,
    names::{self, Meant},
};
use crate::{
    node::{Attributes, Dir, Entry, File, Inode, Kind, Node, StoredDigest, Symlink, Xattr},
    providers::ino,
};

/// The topmost directory of a filesystem. It is opened when it is first looked into.
pub fn root(mount: &Arc<Mount>) -> Arc<dyn Dir> {
    Arc::new(Top(Arc::clone(mount)))
}

/// The directory `id` of a filesystem.
///
/// # Errors
///
/// When the filesystem cannot be opened.
pub fn dir(mount: &Arc<Mount>, id: FileId) -> Result<Arc<dyn Dir>> {
    Ok(Arc::new(GuestDir(Guest::new(mount, &mount.filesystem()?, id))))
}

/// What all nodes have.
struct Guest {
    mount: Arc<Mount>,
    fs: Arc<dyn FileSystem>,
    id: FileId,
    metadata: OnceLock<Metadata>,
}

impl Guest {
    fn new(mount: &Arc<Mount>, fs: &Arc<dyn FileSystem>, id: FileId) -> Self {
        Self { mount: Arc::clone(mount), fs: Arc::clone(fs), id, metadata: OnceLock::new() }
    }

    fn metadata(&self) -> Result<&Metadata> {
        if let Some(known) = self.metadata.get() {
            return Ok(known);
        }
        let found = self.asked(self.fs.metadata(self.id))?;
        Ok(self.metadata.get_or_init(|| found))
    }

    /// An answer of the filesystem; an error says where it lies.
    fn asked<T>(&self, answer: Result<T>) -> Result<T> {
        answer.map_err(|e| self.mount.named(e))
    }

    /// The content that `layer` maps, as a file that can be read.
    fn open(&self, layer: Arc<dyn Layer>) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(Disk::sharing(vec![layer], BlockSizes::CLASSIC, Arc::clone(self.mount.units()))?))
    }

    /// Its alternate data streams, by the names that the tree shows.
    fn streams(&self) -> Result<Vec<(Vec<u8>, Node)>> {
        let node = |stream: guestfs::Stream| {
            let guest = Self::new(&self.mount, &self.fs, self.id);
            let name = names::shown(&stream.name).into_owned();
            (name, Node::File(Arc::new(GuestStream { guest, stream }) as Arc<dyn File>))
        };
        Ok(self.asked(self.fs.streams(self.id))?.into_iter().map(node).collect())
    }

    /// The node of another file.
    fn node(&self, id: FileId) -> Result<Node> {
        let guest = Self::new(&self.mount, &self.fs, id);
        Ok(match guest.metadata()?.kind {
            Kind::Dir => Node::Dir(Arc::new(GuestDir(guest))),
            Kind::File => Node::File(Arc::new(GuestFile(guest))),
            Kind::Symlink => Node::Symlink(Arc::new(GuestLink(guest))),
            Kind::Fifo | Kind::CharDevice | Kind::BlockDevice | Kind::Socket => {
                Node::Special(Arc::new(GuestSpecial(guest)))
            }
        })
    }
}

/// The inode number of a guest's file in the tree.
fn number(mount: &Mount, id: FileId) -> u64 {
    ino(&[b"guest", mount.key(), &id.tree.to_le_bytes(), &id.number.to_le_bytes()])
}

/// A node is an inode by its guest's metadata.
macro_rules! inode {
    ($($node:ty),*) => {$(
        impl Inode for $node {
            fn attributes(&self) -> Result<Attributes> {
                let m = self.0.metadata()?;
                Ok(Attributes {
                    ino: number(&self.0.mount, self.0.id),
                    kind: m.kind,
                    permissions: m.permissions,
                    nlink: m.nlink,
                    uid: m.uid,
                    gid: m.gid,
                    rdev: m.rdev,
                    size: m.size,
                    allocated: m.allocated,
                    atime: m.accessed,
                    mtime: m.modified,
                    ctime: m.changed,
                })
            }

            fn xattrs(&self) -> Result<Vec<Xattr>> {
                self.0.asked(self.0.fs.xattrs(self.0.id))
            }

            fn alternate_streams(&self) -> Result<Vec<(Vec<u8>, Node)>> {
                self.0.streams()
            }
        }
    )*};
}
inode!(GuestDir, GuestFile, GuestLink, GuestSpecial);

struct GuestDir(Guest);
struct GuestFile(Guest);
struct GuestLink(Guest);
struct GuestSpecial(Guest);

impl Dir for GuestDir {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let Guest { fs, id, .. } = &self.0;
        let found = match names::meant(name) {
            Meant::Exactly(stored) => self.0.asked(fs.lookup(*id, &stored))?,
            Meant::Nothing => None,
            Meant::ShownSo => {
                let mut found = None;
                let listed = fs.list(*id, 0, &mut |entry| {
                    if *names::shown(&entry.name) == *name {
                        found = Some(entry.id);
                        return ControlFlow::Break(());
                    }
                    ControlFlow::Continue(())
                });
                self.0.asked(listed)?;
                found
            }
        };
        found.map(|id| self.0.node(id)).transpose()
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        let Guest { fs, id, mount, .. } = &self.0;
        let listed = fs.list(*id, cookie, &mut |entry| {
            let ino = number(mount, entry.id);
            let name = match names::shown(&entry.name) {
                Cow::Borrowed(_) => entry.name,
                Cow::Owned(shown) => shown,
            };
            sink(Entry { name, kind: entry.kind, ino, cookie: entry.cookie })
        });
        self.0.asked(listed)
    }
}

impl File for GuestFile {
    fn open(&self) -> Result<Arc<dyn ReadAt>> {
        self.0.open(self.0.asked(self.0.fs.content(self.0.id))?)
    }

    fn digest(&self) -> Result<Option<StoredDigest>> {
        Ok(None)
    }
}

impl Symlink for GuestLink {
    fn target(&self) -> Result<Vec<u8>> {
        self.0.asked(self.0.fs.link_target(self.0.id))
    }
}

/// An alternate data stream of a file.
struct GuestStream {
    guest: Guest,
    stream: guestfs::Stream,
}

impl Inode for GuestStream {
    fn attributes(&self) -> Result<Attributes> {
        let m = self.guest.metadata()?;
        let ino = ino(&[b"stream", &number(&self.guest.mount, self.guest.id).to_le_bytes(), &self.stream.name]);
        let (uid, gid) = (m.uid, m.gid);
        let own = Attributes::of_file(ino, m.permissions & 0o666, self.stream.size, m.modified);
        Ok(Attributes { uid, gid, atime: m.accessed, ctime: m.changed, ..own })
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl File for GuestStream {
    fn open(&self) -> Result<Arc<dyn ReadAt>> {
        self.guest.open(self.guest.asked(self.guest.fs.stream(self.guest.id, &self.stream.name))?)
    }

    fn digest(&self) -> Result<Option<StoredDigest>> {
        Ok(None)
    }
}

/// The topmost directory, which is there whether or not the filesystem can be opened: looking into it tells why not.
struct Top(Arc<Mount>);

impl Top {
    fn dir(&self) -> Result<GuestDir> {
        let fs = self.0.filesystem()?;
        Ok(GuestDir(Guest::new(&self.0, &fs, fs.root())))
    }
}

impl Inode for Top {
    fn attributes(&self) -> Result<Attributes> {
        let (ino, time) = self.0.place();
        let unknown = || Attributes { ino, ..Attributes::of_folder(ino, time) };
        Ok(self.dir().and_then(|dir| dir.attributes()).map_or_else(|_: Error| unknown(), |a| Attributes { ino, ..a }))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        self.dir()?.xattrs()
    }
}

impl Dir for Top {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        self.dir()?.lookup(name)
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        self.dir()?.list(cookie, sink)
    }
}
