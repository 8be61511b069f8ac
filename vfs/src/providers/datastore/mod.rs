//! A datastore: a folder that hypervisors write to, with the disks of a machine in it.
//!
//! A hypervisor that runs a machine from a share wants more than its disks: it makes lock files, a description, memory
//! images and logs beside them, moves all that about, and at the end removes it. So a datastore is a whole folder that can
//! be written. What clients make are ordinary files of the host (`scratch`). The disks are files as any others, but for
//! their bytes (`disk`), which are those of an overlay: the backup below is only ever read. They show the disk itself (raw,
//! or the flat extent of a VMDK with its descriptor) or the bytes of a container of it (qcow2, VHDX and so on), which can
//! grow.
//!
//! ```text
//! disk0.vmdk  disk0-flat.vmdk         what clients see at first
//! ```
//!
//! Removing a disk's file takes its name away and nothing else: its overlay stays until the datastore is removed. How the
//! folder looks on the host tells `make`; `index` finds a node wherever it was moved to; `node` is what doors see.
//!
//! **What survives.** What [`sync`](crate::node::Changes::sync) has acknowledged survives the end of this process and the
//! loss of power: the content of files and disks, names, attributes. The host's filesystem keeps the promise for names
//! and clients' files, [`blockdev::overlay`] for disks.
//!
//! **What is bounded.** The overlays (each by a quota), the lengths of clients' files together, the number of files, the
//! depth of folders, the files that are kept open.

mod disk;
mod framed;
mod host;
mod index;
mod make;
mod node;
mod record;
mod scratch;

use std::{
    collections::HashMap,
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    sync::{Arc, Weak},
};

use blockdev::{BlockDevice, Error, Result, WriteAt, containers::Kind, overlay::Overlay};
use parking_lot::RwLock;
use quick_cache::sync::Cache;
use rustix::fs::Statx;

use self::{
    disk::Disk,
    host::OrFailed,
    index::{Index, NODES_MAX},
    node::{Folder, Leaf, Link},
    scratch::{Room, Scratch},
};
use super::ino;
use crate::node::{Attributes, Changes, Kind as NodeKind, Node, OpenFile, Space};

/// Clients' files that are kept open.
const OPEN_FILES: usize = 256;

/// Where a disk's bytes are.
pub enum Device {
    /// In a backup: what is written goes to an overlay that the datastore makes and keeps.
    Backup(Arc<dyn BlockDevice>),
    /// On a device that takes writes by itself, and that others may use, too. Only as what has it in one piece: raw, flat
    /// VMDK, fixed VHDX and VHD. What is written around it is kept by the datastore.
    Writable(Arc<dyn WriteAt>),
}

/// A disk for a datastore.
pub struct DiskSource {
    /// What its files are called, without what tells the format.
    pub name: String,
    /// Stands for it: the same disk of the same backup has the same.
    pub identity: Vec<u8>,
    /// Its bytes.
    pub device: Device,
}

/// How a datastore is made or opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the disks look like. The same each time.
    pub kind: Kind,
    /// Bytes that an overlay may take; `None`: as many as there are.
    pub overlay_quota: Option<u64>,
    /// Bytes that clients' own files may have together; `None`: as many as there are.
    pub files_quota: Option<u64>,
    /// Owner and group of the folder and what is in it at first, when it is made; `None`: those of this process.
    pub owner: Option<(u32, u32)>,
}

impl Settings {
    /// With disks as `kind`; no quotas, no owner.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self { kind, overlay_quota: None, files_quota: None, owner: None }
    }
}

/// Somebody who wants to have the bytes of files that clients make, instead of the host's folder.
pub trait Catch: Send + Sync {
    /// Who takes what is written to the file at `path` (names from the top), which the host would keep in `file`; `None`: the
    /// host does.
    ///
    /// # Errors
    ///
    /// When such a file is not to be made.
    fn catch(&self, path: &[Vec<u8>], file: &OpenFile) -> Result<Option<OpenFile>>;
}

/// What a disk is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskStatus {
    /// What it is called in the [`DiskSource`].
    pub name: String,
    /// Bytes that clients have read since the datastore was opened.
    pub read: u64,
    /// Bytes that they have written.
    pub written: u64,
    /// Bytes that its overlay takes, if the datastore has one.
    pub overlay: Option<u64>,
    /// Whether clients still see it: otherwise one of them has removed its file.
    pub visible: bool,
}

/// A datastore that is open. Nobody else may change its folder meanwhile.
pub struct Datastore {
    shared: Arc<Shared>,
}

impl Datastore {
    /// Open the datastore in `folder` of the host, or make it where there is none: then the folder has to be empty or
    /// not there.
    ///
    /// # Errors
    ///
    /// `Invalid` when the folder is no datastore or was made for other disks, `Locked` when another process has it open,
    /// `Damaged` when it was copied without its hard links, and what overlays and containers cannot do.
    pub fn open(folder: &Path, sources: &[DiskSource], settings: &Settings) -> Result<Self> {
        Self::opened(folder, sources, settings, None)
    }

    /// The same without disks, where `catch` is asked for every file of a client's when it is opened first.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn catching(folder: &Path, settings: &Settings, catch: Weak<dyn Catch>) -> Result<Self> {
        Self::opened(folder, &[], settings, Some(catch))
    }

    fn opened(
        folder: &Path,
        sources: &[DiskSource],
        settings: &Settings,
        catch: Option<Weak<dyn Catch>>,
    ) -> Result<Self> {
        let make::Opened { record, files, disks, lock } = make::open(folder, sources, settings)?;
        let root = ino(&[b"datastore", record.id.as_bytes()]);
        let mut shared = Shared {
            id: record.id,
            files: files.into(),
            device: (0, 0),
            root,
            index: RwLock::new(Index::new(root)),
            disks: HashMap::new(),
            order: Vec::new(),
            opened: Cache::new(OPEN_FILES),
            catch,
            room: Arc::new(Room::new(settings.files_quota)),
            _lock: lock,
        };
        let stat = host::stat(&shared.files, None).or_failed("read", b".")?;
        shared.device = (stat.stx_dev_major, stat.stx_dev_minor);
        for opened in disks {
            let stat = host::stat(&opened.place, None).or_failed("read", opened.name.as_bytes())?;
            let ino = shared.number(&stat);
            let disk = Arc::new(Disk::new(opened.name, opened.device, opened.place, ino)?);
            shared.order.push((Arc::clone(&disk), opened.overlay));
            shared.disks.insert(ino, disk);
        }
        shared.scan().map_err(|e| e.context(folder.display()))?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The folder that clients see.
    #[must_use]
    pub fn root(&self) -> Node {
        self.shared.node(self.shared.root, NodeKind::Dir)
    }

    /// What its disks are doing.
    #[must_use]
    pub fn disks(&self) -> Vec<DiskStatus> {
        let status = |(disk, overlay): &(Arc<Disk>, Option<Arc<Overlay>>)| {
            let (read, written) = disk.traffic();
            let (name, visible) = (disk.name().to_owned(), disk.names() > 0);
            DiskStatus { name, read, written, overlay: overlay.as_ref().map(|overlay| overlay.used()), visible }
        };
        self.shared.order.iter().map(status).collect()
    }

    /// Bytes that clients' own files have.
    #[must_use]
    pub fn files_used(&self) -> u64 {
        self.shared.room.used()
    }

    /// Make everything durable. Dropping the datastore does so, too, but cannot tell an error.
    ///
    /// # Errors
    ///
    /// When a medium fails.
    pub fn sync(&self) -> Result<()> {
        self.shared.sync()
    }
}

impl Drop for Datastore {
    fn drop(&mut self) {
        // What was acknowledged is durable without it.
        let _ = self.shared.sync();
    }
}

/// What all nodes share.
pub(crate) struct Shared {
    id: String,
    /// The topmost folder.
    files: OwnedFd,
    /// Its filesystem.
    device: (u32, u32),
    root: u64,
    index: RwLock<Index>,
    disks: HashMap<u64, Arc<Disk>>,
    /// The disks as they were given, with their overlays.
    order: Vec<(Arc<Disk>, Option<Arc<Overlay>>)>,
    opened: Cache<u64, OpenFile>,
    catch: Option<Weak<dyn Catch>>,
    room: Arc<Room>,
    _lock: File,
}

impl Shared {
    /// The number by which doors know a node of the host's folder.
    fn number(&self, stat: &Statx) -> u64 {
        ino(&[b"datastore", self.id.as_bytes(), &host::unique(stat)])
    }

    /// What `stat` says of a node that is no disk, wherever it is now.
    fn attributes(&self, ino: u64) -> Result<Attributes> {
        let index = self.index.read();
        let (folder, name) = self.entry(&index, ino)?;
        let stat = host::stat(&folder, Some(&name)).or_failed("read the attributes of", &name)?;
        Ok(host::attributes(ino, &stat))
    }

    /// The node with this number.
    fn node(self: &Arc<Self>, ino: u64, kind: NodeKind) -> Node {
        let shared = Arc::clone(self);
        match kind {
            NodeKind::Dir => Node::Dir(Arc::new(Folder { shared, ino })),
            NodeKind::Symlink => Node::Symlink(Arc::new(Link { shared, ino })),
            _ => Node::File(Arc::new(Leaf { shared, ino })),
        }
    }

    /// The host's folder that is the directory `ino`.
    fn folder(&self, index: &Index, ino: u64) -> Result<OwnedFd> {
        let path = index.path(ino).ok_or_else(gone)?;
        let mut at = self.files.try_clone().or_failed("open", b".")?;
        for name in path {
            at = host::folder(&at, &name).or_failed("open", &name)?;
        }
        Ok(at)
    }

    /// The host's folder that has the node `ino`, and its name there.
    fn entry(&self, index: &Index, ino: u64) -> Result<(OwnedFd, Vec<u8>)> {
        let (dir, name) = index.name(ino).ok_or_else(gone)?;
        Ok((self.folder(index, dir)?, name.to_vec()))
    }

    /// The file `ino`, opened.
    fn open_file(&self, ino: u64) -> Result<OpenFile> {
        if let Some(disk) = self.disks.get(&ino) {
            return Ok(Arc::clone(disk) as OpenFile);
        }
        self.opened.get_or_insert_with(&ino, || {
            let index = self.index.read();
            let (dir, name) = self.entry(&index, ino)?;
            let file = host::file(&dir, &name).or_failed("open", &name)?;
            let file: OpenFile = Arc::new(Scratch::new(ino, name, file, Arc::clone(&self.room)));
            let caught = match (self.catch.as_ref().and_then(Weak::upgrade), index.path(ino)) {
                (Some(catch), Some(path)) => catch.catch(&path, &file)?,
                _ => None,
            };
            Ok::<_, Error>(caught.unwrap_or(file))
        })
    }

    /// The last name of a node was removed; the node had this length.
    fn forget(&self, ino: u64, size: u64) {
        // Of a file that is open the room comes back when it is closed.
        if !self.disks.contains_key(&ino) && self.opened.remove(&ino).is_none() {
            self.room.count(size, 0);
        }
    }

    /// Take up what is in the host's folder.
    fn scan(&mut self) -> Result<()> {
        let index = self.index.get_mut();
        let mark = make::mark(&self.id);
        let mut rest = vec![self.root];
        while let Some(at) = rest.pop() {
            let mut dir = self.files.try_clone().or_failed("open", b".")?;
            for name in index.path(at).unwrap_or_default() {
                dir = host::folder(&dir, &name).or_failed("open", &name)?;
            }
            for entry in rustix::fs::Dir::read_from(&dir).or_failed("list", b".")? {
                let entry = entry.or_failed("list", b".")?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let stat = host::stat(&dir, Some(name)).or_failed("read the attributes of", name)?;
                let kind = host::kind(&stat);
                // Nothing else was made here, and nothing is mounted here.
                let served = matches!(kind, NodeKind::Dir | NodeKind::File | NodeKind::Symlink);
                if !served || (stat.stx_dev_major, stat.stx_dev_minor) != self.device {
                    continue;
                }
                let ino = ino(&[b"datastore", self.id.as_bytes(), &host::unique(&stat)]);
                index.check_room(at, name, None)?;
                let known = index.kind(ino).is_some();
                index.insert(at, name, ino, kind);
                match kind {
                    NodeKind::Dir => rest.push(ino),
                    NodeKind::File if !known && !self.disks.contains_key(&ino) => {
                        is_own(&dir, name, stat.stx_size, mark.as_bytes())?;
                        self.room.count(0, stat.stx_size);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn space(&self) -> Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.files).or_failed("ask the room of", b".")?;
        let of = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let (bytes, free) = (of(stat.f_blocks), of(stat.f_bavail));
        let nodes = self.index.read().len();
        Ok(Space {
            bytes: self.room.quota().map_or(bytes, |quota| quota.min(bytes)),
            free_bytes: self.room.left().map_or(free, |left| left.min(free)),
            files: NODES_MAX as u64,
            free_files: NODES_MAX.saturating_sub(nodes) as u64,
        })
    }

    fn sync(&self) -> Result<()> {
        for (disk, _) in &self.order {
            disk.sync()?;
        }
        // Clients' files and names, all at once.
        rustix::fs::syncfs(&self.files).or_failed("make durable", b".")
    }
}

/// Fails for a place holder that is not one any more.
fn is_own(dir: impl AsFd, name: &[u8], size: u64, mark: &[u8]) -> Result<()> {
    if size < mark.len() as u64 {
        return Ok(());
    }
    let mut head = vec![0; mark.len()];
    let file = host::file(dir, name);
    if file.is_ok_and(|file| file.read_exact_at(&mut head, 0).is_ok()) && head == mark {
        let shown = name.escape_ascii();
        return Err(Error::damaged(format!(
            "'{shown}' is the place of a disk that was copied without its hard links: copy the folder with cp -a or rsync -H"
        )));
    }
    Ok(())
}

/// A node that has no name any more.
fn gone() -> Error {
    Error::not_found("a file of the datastore was removed")
}
