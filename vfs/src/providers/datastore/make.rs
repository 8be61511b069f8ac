//! A datastore's folder on the host: made once, opened as often as wished.
//!
//! ```text
//! FOLDER/datastore.json        what it was made for
//! FOLDER/files/                what clients see: place holders of the disks, and files of their own
//! FOLDER/disks/disk0.qcow2     the overlay: everything that clients wrote to the disk; where that is a device of its own,
//!                              what they wrote around it in its container
//! FOLDER/disks/disk0.place     another name of the place holder
//! ```
//!
//! Making it is begun again from the start when it was broken off: before it is complete nobody was served.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use blockdev::{
    BlockDevice, Error, ErrorKind, ReadAt, Result, WriteAt,
    containers::{self, Content, Kind},
    overlay::{self, Overlay},
};
use rustix::fs::{FlockOperation, flock};

use super::{
    Device, DiskSource, Settings,
    disk::Roomy,
    framed::Framed,
    record::{Record, RecordedDisk},
};
use crate::node::is_name;

/// What a growing container may come to need beside the disk's own bytes: tables for them, and a log.
const OVERHEAD: u64 = 1 << 30;
/// Lengths of files that grow are multiples of it.
const UNIT: u64 = 1 << 16;
/// How long is waited for a folder that is in use.
const PATIENCE: Duration = Duration::from_secs(1);
/// Mode of the topmost folder, and of what is in it at first.
const FOLDER_MODE: u32 = 0o770;
const FILE_MODE: u32 = 0o660;

/// A folder that is open.
pub struct Opened {
    pub record: Record,
    pub files: File,
    pub disks: Vec<OpenedDisk>,
    /// Held as long as the folder is in use.
    pub lock: File,
}

/// A disk of it.
pub struct OpenedDisk {
    pub name: String,
    pub device: Arc<dyn WriteAt>,
    pub place: File,
    pub overlay: Option<Arc<Overlay>>,
}

/// The file in which the overlay's bytes are, and which files a disk is shown as.
struct Shape<'a> {
    source: &'a DiskSource,
    kind: Kind,
    folder: &'a Path,
}

/// Open the folder, or make it.
///
/// # Errors
///
/// As [`Datastore::open`](super::Datastore::open).
pub fn open(folder: &Path, sources: &[DiskSource], settings: &Settings) -> Result<Opened> {
    check(sources, settings.kind)?;
    let failed = |e| Error::io(format!("cannot use the folder {}", folder.display()), e);
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let lock = File::open(folder).map_err(failed)?;
    locked(&lock, folder)?;
    let shapes: Vec<_> = sources.iter().map(|source| Shape { source, kind: settings.kind, folder }).collect();
    let record = match Record::read(folder)? {
        Some(record) if record.complete => {
            fits(&record, folder, sources, settings)?;
            record
        }
        begun => {
            if begun.is_none() && fs::read_dir(folder).map_err(failed)?.next().is_some() {
                let shown = folder.display();
                return Err(Error::invalid(format!("{shown} has other things in it: name a new or an empty folder")));
            }
            make(folder, &shapes, settings)?
        }
    };
    let files = File::open(folder.join("files")).map_err(failed)?;
    let limits = record.disks.iter().map(|disk| disk.limit);
    let disks = shapes.iter().zip(limits).map(|(shape, limit)| shape.open(limit, settings)).collect::<Result<_>>()?;
    Ok(Opened { record, files, disks, lock })
}

/// Take the folder for this process alone. Threads of one that just ended it may hold it for a moment longer.
fn locked(lock: &File, folder: &Path) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while flock(lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > until {
            let shown = folder.display();
            let message = format!("the folder {shown} is in use by another process: end that one first");
            return Err(Error::new(ErrorKind::Locked, message));
        }
        thread::sleep(PATIENCE / 50);
    }
    Ok(())
}

fn check(sources: &[DiskSource], kind: Kind) -> Result<()> {
    if matches!(kind, Kind::VmdkStream) {
        return Err(Error::invalid("nobody writes to streamOptimized VMDK files; use vmdk, raw, qcow2 or vhdx"));
    }
    for (at, source) in sources.iter().enumerate() {
        let name = &source.name;
        // With the longest of what is put behind it.
        if !is_name(name.as_bytes()) || name.starts_with('.') || name.len() > 200 {
            return Err(Error::invalid(format!("{name:?} cannot be the name of a disk's file")));
        }
        if sources.iter().take(at).any(|other| other.name == *name) {
            return Err(Error::invalid(format!("two disks are called {name:?}")));
        }
        if matches!(source.device, Device::Writable(_)) && grows(kind) == Some(true) {
            return Err(Error::invalid(format!("a disk that is written elsewhere, too, cannot be shown as {kind}")));
        }
    }
    Ok(())
}

/// Whether the file of the disk's bytes grows; `None`: it has the bytes of a container, and does not.
const fn grows(kind: Kind) -> Option<bool> {
    match kind {
        Kind::Raw | Kind::VmdkFlat | Kind::VmdkVmfs => Some(false),
        Kind::VhdxFixed | Kind::VhdFixed => None,
        _ => Some(true),
    }
}

fn fits(record: &Record, folder: &Path, sources: &[DiskSource], settings: &Settings) -> Result<()> {
    let names = |disks: &[RecordedDisk]| disks.iter().map(|disk| disk.name.clone()).collect::<Vec<_>>().join(", ");
    let wanted = sources.iter().map(|source| source.name.clone()).collect::<Vec<_>>().join(", ");
    let shown = folder.display();
    if record.kind != settings.kind {
        let (was, now) = (record.kind, settings.kind);
        return Err(Error::invalid(format!("the datastore {shown} was made with disks as {was}, not as {now}")));
    }
    if names(&record.disks) != wanted {
        let was = names(&record.disks);
        return Err(Error::invalid(format!("the datastore {shown} was made for the disks {was}, not for {wanted}")));
    }
    Ok(())
}

/// Make everything.
fn make(folder: &Path, shapes: &[Shape<'_>], settings: &Settings) -> Result<Record> {
    let failed = |e| Error::io(format!("cannot make the datastore {}", folder.display()), e);
    let mut record = Record::new(settings.kind);
    record.write(folder)?;
    for name in ["files", "disks"] {
        let path = folder.join(name);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
    }
    for shape in shapes {
        let limit = shape.make(&record.id, settings)?;
        record.disks.push(RecordedDisk { name: shape.source.name.clone(), limit });
    }
    let files = folder.join("files");
    fs::set_permissions(&files, Permissions::from_mode(FOLDER_MODE)).map_err(failed)?;
    owned(&files, settings).map_err(failed)?;
    for name in ["files", "disks"] {
        File::open(folder.join(name)).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    record.complete = true;
    record.write(folder)?;
    Ok(record)
}

fn owned(path: &Path, settings: &Settings) -> io::Result<()> {
    match settings.owner {
        Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// What a place holder of a datastore with this number begins with. Clients never see it; it tells a place holder whose
/// other name was lost when the folder was copied.
pub fn mark(id: &str) -> String {
    format!("Revenant datastore {id}: ")
}

impl Shape<'_> {
    fn overlay_path(&self) -> PathBuf {
        self.folder.join("disks").join(format!("{}.qcow2", self.source.name))
    }

    fn place_path(&self) -> PathBuf {
        self.folder.join("disks").join(format!("{}.place", self.source.name))
    }

    /// The names of the file with the disk's bytes and of the descriptor, if there is one.
    fn names(&self) -> (String, Option<String>) {
        let (mut image, mut descriptor) = (String::new(), None);
        for part in self.kind.parts(&self.source.name) {
            match part.content {
                Content::Image => image = part.name,
                Content::Flat => descriptor = Some(std::mem::replace(&mut image, part.name)),
            }
        }
        (image, descriptor)
    }

    fn disk(&self) -> Arc<dyn BlockDevice> {
        match &self.source.device {
            Device::Backup(disk) => Arc::clone(disk),
            Device::Writable(disk) => Arc::clone(disk) as Arc<dyn BlockDevice>,
        }
    }

    /// The bytes of the file as they were before anybody wrote.
    fn content(&self) -> Result<Arc<dyn ReadAt>> {
        let disk = self.disk();
        let (image, descriptor) = self.names();
        match (self.kind, descriptor) {
            (_, Some(_)) => containers::open_flat(&disk),
            _ => containers::open(self.kind, &image, &disk, &self.source.identity),
        }
    }

    /// The longest that the file may become.
    fn limit(&self, content: u64) -> Result<u64> {
        if grows(self.kind) != Some(true) {
            return Ok(content);
        }
        let size = self.disk().size();
        let more =
            size.checked_add(size / 64).and_then(|n| n.checked_add(OVERHEAD)).and_then(|n| n.checked_add(content));
        let limit = more.and_then(|n| n.checked_next_multiple_of(UNIT)).filter(|&n| n <= i64::MAX as u64);
        limit.ok_or_else(|| Error::unsupported(format!("the disk {} is larger than a file can be", self.source.name)))
    }

    /// What the overlay is over: the disk itself where that is what the file shows, so that other doors can use the same
    /// overlay; or else the bytes of the container.
    fn base(&self, disk: &Arc<dyn BlockDevice>, content: Arc<dyn ReadAt>, limit: u64) -> Arc<dyn BlockDevice> {
        if grows(self.kind) == Some(false) && content.size() == disk.size() {
            return Arc::clone(disk);
        }
        Arc::new(Roomy::new(content, limit, disk.block_sizes()))
    }

    fn overlay_options(&self, settings: &Settings) -> overlay::Options {
        let identity = String::from_utf8_lossy(&self.source.identity);
        let plain = grows(self.kind) == Some(false);
        let identity = if plain { identity.into_owned() } else { format!("{identity} as {}", self.kind) };
        let mut options = overlay::Options::new(identity);
        // What is around a device of its own is a few MiB.
        options.quota = settings.overlay_quota.filter(|_| matches!(self.source.device, Device::Backup(_)));
        options
    }

    /// Whether an overlay of the datastore keeps what is written to the file, or a part of it.
    const fn has_overlay(&self) -> bool {
        matches!(self.source.device, Device::Backup(_)) || grows(self.kind).is_none()
    }

    /// Make the disk's files; how long the one with its bytes may become.
    fn make(&self, id: &str, settings: &Settings) -> Result<u64> {
        let failed = |e| Error::io(format!("cannot make the datastore {}", self.folder.display()), e);
        let content = self.content()?;
        let (size, limit) = (content.size(), self.limit(content.size())?);
        if self.has_overlay() {
            let base = self.base(&self.disk(), content, limit);
            Overlay::create(&self.overlay_path(), base, &self.overlay_options(settings))?.close()?;
        }
        let (image, descriptor) = self.names();
        let files = self.folder.join("files");
        let new = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path);
        let finish = |file: &File, path: &Path| {
            file.set_permissions(Permissions::from_mode(FILE_MODE))?;
            owned(path, settings)?;
            file.sync_all()
        };
        if let Some(descriptor) = descriptor {
            let text = containers::open(self.kind, &descriptor, &self.disk(), &self.source.identity)?;
            let mut bytes = vec![0; usize::try_from(text.size()).unwrap_or(0)];
            text.read_at(&mut bytes, 0)?;
            let path = files.join(descriptor);
            let mut file = new(&path).map_err(failed)?;
            file.write_all(&bytes).and_then(|()| finish(&file, &path)).map_err(failed)?;
        }
        let path = self.place_path();
        let mut place = new(&path).map_err(failed)?;
        let note = format!("{}the place of the disk {}, whose bytes are in disks/\n", mark(id), self.source.name);
        let made = place.write_all(note.as_bytes()).and_then(|()| place.set_len(size));
        made.and_then(|()| finish(&place, &path)).map_err(failed)?;
        fs::hard_link(&path, files.join(image)).map_err(failed)?;
        Ok(limit)
    }

    fn open(&self, limit: u64, settings: &Settings) -> Result<OpenedDisk> {
        let path = self.place_path();
        let place = OpenOptions::new().read(true).write(true).open(&path);
        let place = place.map_err(|e| Error::io(format!("cannot open {}", path.display()), e))?;
        let name = self.source.name.clone();
        let overlay = if self.has_overlay() {
            let base = self.base(&self.disk(), self.content()?, limit);
            Some(Arc::new(Overlay::open(&self.overlay_path(), base, &self.overlay_options(settings))?))
        } else {
            None
        };
        let (device, overlay) = match (&self.source.device, overlay) {
            (Device::Backup(_), Some(overlay)) => (Arc::clone(&overlay) as Arc<dyn WriteAt>, Some(overlay)),
            (Device::Writable(device), Some(frame)) => {
                let at = containers::place_of(self.kind, &self.disk())?.unwrap_or(0);
                (Arc::new(Framed::new(Arc::clone(device), at, frame)) as Arc<dyn WriteAt>, None)
            }
            (Device::Writable(device), None) => (Arc::clone(device), None),
            (Device::Backup(_), None) => return Err(Error::invalid(format!("{name} has no overlay"))),
        };
        Ok(OpenedDisk { name, device, place, overlay })
    }
}
