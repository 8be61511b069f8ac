//! `files/<disk>/<volume>/...`: the files of the guest, out of its disks.
//!
//! The disks are opened, and their volumes looked for, when the folder of a disk is first looked into; a filesystem
//! when its volume is. A volume that lies on several disks is shown at the first, and linked from the others.

mod mount;
mod names;
mod node;

use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{
    BlockDevice, Result,
    images::Disk,
    partitions::{self, Survey},
};
use guestfs::Found;

use self::mount::Mount;
use super::{
    disks::LazyImage,
    folder::{Child, Folder, link},
    ino,
};
use crate::node::{Kind, Node, Time};

/// Disks looked at together in search of the other parts of a volume.
const COMPANY_MAX: usize = 256;

/// A disk by its name.
pub type NamedDisk = (String, Arc<LazyImage>);

/// The disks of a machine, and what is on them.
pub struct Guest {
    disks: Vec<NamedDisk>,
    /// Disks that may have parts of the same volumes; they are looked at only when parts are missing.
    company: Arc<Vec<NamedDisk>>,
    /// Stands for this machine at this time, and for no other.
    identity: Vec<u8>,
    time: Time,
    /// Whoever comes first looks; the others wait. A failure is not kept.
    volumes: Mutex<Option<Arc<Vec<Shown>>>>,
}

/// A volume with files.
struct Shown {
    name: String,
    disks: Vec<String>,
    mount: Arc<Mount>,
}

impl Guest {
    /// The machine of `disks`.
    pub fn new(disks: Vec<NamedDisk>, company: Arc<Vec<NamedDisk>>, identity: Vec<u8>, time: Time) -> Arc<Self> {
        Arc::new(Self { disks, company, identity, time, volumes: Mutex::new(None) })
    }

    /// The folder `files` with a folder for each disk.
    pub fn by_disk(self: &Arc<Self>) -> Child {
        let folder = |(name, _): &NamedDisk| {
            let (guest, disk) = (Arc::clone(self), name.clone());
            let ino = self.ino(&[b"files", name.as_bytes()]);
            Child::folder(name.as_str(), Folder::lazy(ino, self.time, move || guest.of_disk(&disk)))
        };
        let folders = self.disks.iter().map(folder).collect();
        Child::folder("files", Folder::of(self.ino(&[b"files"]), self.time, folders))
    }

    /// The folder `files` with the volumes of the only disk.
    pub fn of_only_disk(self: &Arc<Self>) -> Child {
        let guest = Arc::clone(self);
        let all = move || match guest.disks.first() {
            Some((name, _)) => guest.of_disk(name),
            None => Ok(Vec::new()),
        };
        Child::folder("files", Folder::lazy(self.ino(&[b"files"]), self.time, all))
    }

    fn ino(&self, parts: &[&[u8]]) -> u64 {
        ino(&[&[&self.identity[..]], parts].concat())
    }

    /// The volumes that have a part on the disk `name`.
    fn of_disk(&self, name: &str) -> Result<Vec<Child>> {
        // A disk that cannot be opened says so itself, whatever the others are.
        if let Some((_, image)) = self.disks.iter().find(|(n, _)| n == name) {
            image.get()?;
        }
        let ours = |disk: &String| self.disks.iter().any(|(n, _)| n == disk);
        let child = |shown: &Shown| {
            let place = shown.disks.iter().find(|d| ours(d))?;
            if !shown.disks.iter().any(|d| d == name) {
                return None;
            }
            if place != name {
                let target = format!("../{place}/{}", shown.name);
                let ino = self.ino(&[b"link", name.as_bytes(), shown.name.as_bytes()]);
                return Some(link(shown.name.as_str(), target, ino, self.time));
            }
            let node: Node = node::root(&shown.mount);
            Some(Child::new(shown.name.as_str(), Kind::Dir, shown.mount.place().0, node))
        };
        Ok(self.volumes()?.iter().filter_map(child).collect())
    }

    fn volumes(&self) -> Result<Arc<Vec<Shown>>> {
        let mut kept = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(volumes) = &*kept {
            return Ok(Arc::clone(volumes));
        }
        let own = opened(&self.disks);
        let mut survey = partitions::survey(&own);
        if is_part(&survey) {
            let others = self.company.iter().filter(|(name, _)| !self.disks.iter().any(|(own, _)| own == name));
            let others: Vec<_> = others.take(COMPANY_MAX).cloned().collect();
            if !others.is_empty() {
                survey = partitions::survey(&[own, opened(&others)].concat());
            }
        }
        let found = guestfs::find(&survey.volumes);
        let volumes = Arc::new(found.into_iter().filter_map(|f| self.shown(&survey, f)).collect());
        *kept = Some(Arc::clone(&volumes));
        Ok(volumes)
    }

    fn shown(&self, survey: &Survey, found: Found) -> Option<Shown> {
        let volumes: Vec<_> = found.volumes.iter().filter_map(|v| survey.volumes.get(*v)).collect();
        let name = volumes.first()?.name.clone();
        let mut disks: Vec<String> = Vec::new();
        for disk in volumes.iter().flat_map(|v| &v.disks) {
            if !disks.contains(disk) {
                disks.push(disk.clone());
            }
        }
        let first = disks.iter().find(|d| self.disks.iter().any(|(own, _)| own == *d))?;
        let key = [&self.identity[..], b"\0", first.as_bytes(), b"\0", name.as_bytes()].concat();
        let place = format!("{first} {name}");
        let mount = Mount::new(found, place, key.clone(), ino(&[b"volume", &key]), self.time);
        Some(Shown { name, disks, mount })
    }
}

/// Those of `disks` that can be opened.
fn opened(disks: &[NamedDisk]) -> Vec<(String, Arc<dyn BlockDevice>)> {
    let device = |(name, image): &NamedDisk| {
        let disk: Arc<dyn BlockDevice> = Arc::<Disk>::clone(&image.get().ok()?.disk);
        Some((name.clone(), disk))
    };
    disks.iter().filter_map(device).collect()
}

/// Whether something on the disks may have parts elsewhere.
fn is_part(survey: &Survey) -> bool {
    let kinds = survey.volumes.iter().filter_map(|v| Some(v.content.as_ref()?.kind));
    kinds.into_iter().any(|kind| kind.is_member() || guestfs::open::has_members(kind))
}
