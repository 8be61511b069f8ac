//! `machines/<machine>/@<time>/{disks/<disk>.*,files/<disk>/...}`: restore points of machines.
//!
//! A machine is not something that Bacula knows: it is found in the files of restore points, by a description
//! (`machine.json`) or by the disk images themselves (`discover`). A point of a machine is one of its fileset's
//! points, seen as disks.

mod description;
mod discover;
mod naming;

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use blockdev::{Result, encrypted::Secrets};
use volreader::block::Session;

pub use self::discover::Path;
use super::{
    disks::{Subject, faces, image_in},
    files::{self, Guest},
    folder::{Child, Folder},
    ino,
    points::PointSet,
};
use crate::node::{Attributes, Dir, Entry, Inode, Kind, Node, Time, Xattr};

/// A restore point of a machine.
pub struct MachinePoint {
    /// `@<time>`.
    pub time: String,
    /// The job that made it.
    pub job_id: u32,
    /// Its client.
    pub client: String,
    /// Where it lies in the tree of files: `clients/...`.
    pub folder: String,
    /// Its disks by name.
    pub disks: Vec<MachineDisk>,
    seconds: i64,
    /// The stored description, if there is one.
    description: Option<Vec<u8>>,
}

/// A disk of a machine at a point.
pub struct MachineDisk {
    /// Its name in the tree.
    pub name: String,
    /// The name of its topmost image file.
    pub file: String,
    /// The disk.
    pub subject: Subject,
}

/// The points of each machine, by name, oldest first.
pub type AllMachines = BTreeMap<String, Vec<Arc<MachinePoint>>>;

/// The folder `machines`. Needs all jobs: waits until indexing is done.
pub struct Machines {
    points: Arc<PointSet>,
    found: Mutex<Option<(u64, Arc<AllMachines>)>>,
    /// Folders with images in them, by job: a job is looked through once.
    searched: Mutex<HashMap<Session, Arc<Vec<Path>>>>,
    secrets: Arc<Secrets>,
}

impl Machines {
    pub(super) fn new(points: Arc<PointSet>, secrets: &Arc<Secrets>) -> Arc<Self> {
        let secrets = Arc::clone(secrets);
        Arc::new(Self { points, found: Mutex::new(None), searched: Mutex::default(), secrets })
    }

    /// All machines and their points.
    ///
    /// # Errors
    ///
    /// When jobs cannot be listed.
    pub fn all(&self) -> Result<Arc<AllMachines>> {
        let (generation, points) = self.points.all()?;
        let mut kept = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = kept.as_ref().filter(|(known, _)| *known == generation) {
            return Ok(Arc::clone(found));
        }
        let mut found = Vec::new();
        for (client, filesets) in points.iter() {
            for (fileset, times) in filesets {
                for (time, point) in times {
                    let Some(job) = point.chain.last() else { continue };
                    // A job that cannot be read has no machines; `jobs/` and `clients/` tell what is wrong with it.
                    let Ok(folders) = self.folders_with_images(job) else { continue };
                    let root = self.points.root([client, fileset, time], point);
                    for folder in folders.iter() {
                        let place = format!("clients/{client}/{fileset}/{time}");
                        found.extend(discover::machines(&root, folder, job, &place, time).unwrap_or_default());
                    }
                }
            }
        }
        let found = Arc::new(naming::unique(found));
        *kept = Some((generation, Arc::clone(&found)));
        Ok(found)
    }

    fn folders_with_images(&self, job: &Arc<volreader::archive::Job>) -> Result<Arc<Vec<Path>>> {
        let mut searched = self.searched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = searched.get(&job.session) {
            return Ok(Arc::clone(known));
        }
        let folders = Arc::new(discover::folders_with_images(self.points.shared(), job)?);
        searched.insert(job.session, Arc::clone(&folders));
        Ok(folders)
    }

    fn machine(&self, name: &str, points: &[Arc<MachinePoint>]) -> Node {
        let children = points.iter().map(|point| {
            let ino = ino(&[b"machine", name.as_bytes(), point.time.as_bytes()]);
            let (time, name, shown) = (Time { seconds: point.seconds, nanos: 0 }, name.to_owned(), Arc::clone(point));
            let secrets = Arc::clone(&self.secrets);
            let contents = Folder::lazy(ino, time, move || Ok(shown.contents(&name, &secrets)));
            Child::folder(point.time.as_str(), contents)
        });
        let ino = ino(&[b"machine", name.as_bytes()]);
        Node::Dir(Arc::new(Folder::of(ino, self.points.shared().since(), children.collect())))
    }
}

impl MachinePoint {
    /// What is in the folder of the point.
    fn contents(&self, machine: &str, secrets: &Arc<Secrets>) -> Vec<Child> {
        let time = Time { seconds: self.seconds, nanos: 0 };
        let key = [machine.as_bytes(), b"\0", self.time.as_bytes()].concat();
        let disks = self.disks.iter().flat_map(|d| faces(&d.name, &d.subject)).collect();
        let description = description::file(self, machine, ino(&[b"machine.json", &key]), time);
        let named = self.disks.iter().map(|d| (d.name.clone(), Arc::clone(&d.subject.image))).collect();
        let files = files::folder(Guest::new(named, Arc::default(), key.clone(), time, secrets), true);
        vec![Child::folder("disks", Folder::of(ino(&[b"disks", &key]), time, disks)), files, description]
    }
}

impl Inode for Machines {
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::of_folder(ino(&[b"machines"]), self.points.shared().since()))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl Dir for Machines {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let Ok(name) = std::str::from_utf8(name) else { return Ok(None) };
        Ok(self.all()?.get(name).map(|points| self.machine(name, points)))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        for (name, cookie) in self.all()?.keys().zip(1..).skip(cookie as usize) {
            let ino = ino(&[b"machine", name.as_bytes()]);
            if sink(Entry { name: name.clone().into_bytes(), kind: Kind::Dir, ino, cookie }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The disk whose topmost image is `file` in `folder`.
fn disk(folder: &Arc<dyn Dir>, name: String, file: &[u8], identity: Vec<u8>, seconds: i64) -> MachineDisk {
    let image = image_in(Arc::clone(folder), file.to_vec());
    let subject = Subject { image, identity, time: Time { seconds, nanos: 0 } };
    MachineDisk { name, file: String::from_utf8_lossy(file).into_owned(), subject }
}
