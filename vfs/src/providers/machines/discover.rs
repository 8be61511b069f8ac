//! Finding machines: which folders of a job hold disk images, and which machines and disks these are.
//!
//! A disk image is known by its bytes, never by its name. Looking into every file of a job would cost too much, so
//! small files are passed over, and of the others one block is read. What is found is a matter of the job alone and
//! is kept; the disks of a point are then those in the same folders of the *merged* point, where a delta and all it
//! builds on lie side by side.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::ControlFlow,
    sync::Arc,
};

use blockdev::{
    ReadAt, Result,
    images::{self, Format},
};
use volreader::{
    archive::Job,
    index::entry::{DirId, EntryKind, Flags},
};

use super::{
    MachineDisk, MachinePoint, description, disk,
    naming::{self, Named},
};
use crate::{
    node::{Dir, Kind, Node},
    providers::{disks::NodeFolder, stored::Shared},
};

/// The way to a folder from a point's root.
pub type Path = Vec<Vec<u8>>;

/// The smallest file in which a disk is looked for, in bytes: an empty qcow2 has more, a floppy is larger.
const IMAGE_MIN: i64 = 64 << 10;

/// The smallest raw disk, in bytes: boot sectors and kernels are files of their own in many places.
const RAW_MIN: u64 = 1 << 20;

/// A machine of a point that has no name of its own yet.
pub struct Found {
    /// What it would be called, and what tells it from others of that name.
    pub named: Named,
    pub point: MachinePoint,
}

/// The folders of `job` in which there are disk images or machine descriptions.
///
/// # Errors
///
/// When the job's files cannot be listed.
pub fn folders_with_images(shared: &Arc<Shared>, job: &Arc<Job>) -> Result<Vec<Path>> {
    let table = job.table()?;
    let mut found = Vec::new();
    let mut waiting: Vec<(DirId, Path)> = vec![(table.root(), Path::new())];
    let mut seen = HashSet::new();
    while let Some((dir, path)) = waiting.pop() {
        // A damaged index may lead in circles.
        if !seen.insert(dir) {
            continue;
        }
        let mut candidates = Vec::new();
        let mut is_described = false;
        table.list(dir, 0, &mut |_, entry| {
            match entry.kind {
                EntryKind::Dir => {
                    if let Some(dir) = entry.dir {
                        let mut below = path.clone();
                        below.push(entry.name);
                        waiting.push((dir, below));
                    }
                }
                EntryKind::File if entry.name == description::FILE_NAME => is_described = true,
                EntryKind::File if entry.stat.size >= IMAGE_MIN && !entry.flags.has(Flags::UPDATE) => {
                    candidates.push(entry);
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        let is_image = |entry: volreader::index::entry::Entry| {
            let node = crate::providers::stored::node(shared, job, entry, None, 0);
            matches!(node, Some(Node::File(file)) if file.open().is_ok_and(|f| disk_format(f.as_ref()).is_some()))
        };
        if is_described || candidates.into_iter().any(is_image) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The format of a disk image; `None` for files that are none, and for those that cannot be read.
fn disk_format(file: &dyn ReadAt) -> Option<Format> {
    match images::detect(file).ok()? {
        Format::Raw => (file.size() >= RAW_MIN && images::detect::is_disk(file).ok()?).then_some(Format::Raw),
        format => Some(format),
    }
}

/// The machines in folder `path` of the point whose folder is `root`.
///
/// # Errors
///
/// When the folder cannot be listed.
pub fn machines(root: &Arc<dyn Dir>, path: &Path, job: &Arc<Job>, point: &str, time: &str) -> Result<Vec<Found>> {
    let components: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
    let folder = if components.is_empty() { Some(Node::Dir(Arc::clone(root))) } else { root.walk(&components)? };
    let Some(Node::Dir(folder)) = folder else { return Ok(Vec::new()) };
    let images = Images::of(&folder)?;
    let stored = match folder.lookup(description::FILE_NAME)? {
        Some(Node::File(file)) => description::read(file.as_ref()).ok(),
        _ => None,
    };
    let mut groups: BTreeMap<String, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    let mut text = None;
    if let Some((described, bytes)) = stored {
        let disks = images.of_description(&described);
        if !disks.is_empty() {
            let name = described.name.unwrap_or_else(|| naming::of_folder(path, &job.facts.client));
            groups.insert(name, disks);
            text = Some(bytes);
        }
    }
    if groups.is_empty() {
        for file in &images.tops {
            let (machine, disk) = naming::of_file(file, path, &job.facts.client);
            groups.entry(machine).or_default().push((disk, file.clone()));
        }
    }
    let way = path.iter().map(|c| String::from_utf8_lossy(c)).collect::<Vec<_>>().join("/");
    let folder_path = if way.is_empty() { point.to_owned() } else { format!("{point}/{way}") };
    let mut found = Vec::new();
    for (machine, disks) in groups {
        let seconds = job.facts.start_seconds();
        let disks: Vec<MachineDisk> = naming::disks(disks)
            .into_iter()
            .map(|(name, file)| {
                let identity = [folder_path.as_bytes(), b"\0", &file].concat();
                disk(&folder, name, &file, identity, seconds)
            })
            .collect();
        found.push(Found {
            named: Named { name: machine, client: job.facts.client.clone(), folder: path.clone() },
            point: MachinePoint {
                time: time.to_owned(),
                job_id: job.facts.job_id,
                client: job.facts.client.clone(),
                folder: folder_path.clone(),
                disks,
                seconds,
                description: text.clone(),
            },
        });
    }
    Ok(found)
}

/// The disk images of one folder.
struct Images {
    /// Those that no other builds on: a machine's disks.
    tops: Vec<Vec<u8>>,
    all: BTreeSet<Vec<u8>>,
    /// Who is made on whom: of each parent its children.
    children: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
}

impl Images {
    fn of(folder: &Arc<dyn Dir>) -> Result<Self> {
        let gate = NodeFolder(Arc::clone(folder));
        let mut names = Vec::new();
        folder.list(0, &mut |entry| {
            if entry.kind == Kind::File && entry.name != description::FILE_NAME {
                names.push(entry.name);
            }
            ControlFlow::Continue(())
        })?;
        let (mut all, mut used, mut children) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        for name in names {
            let Some(Node::File(file)) = folder.lookup(&name)? else { continue };
            let Ok(content) = file.open() else { continue };
            let Some(format) = disk_format(content.as_ref()) else { continue };
            // An image that cannot be opened is shown all the same: reading it tells why.
            if let Ok(opened) = images::open_one(&content, Some(format), &gate) {
                let base = |name: String| Some(images::gate::base_name(&name)?.as_bytes().to_vec());
                for parent in opened.info.parent.into_iter().flat_map(|p| p.names).filter_map(base) {
                    children.entry(parent.clone()).or_insert_with(Vec::new).push(name.clone());
                    used.insert(parent);
                }
                used.extend(opened.info.parts.into_iter().filter_map(base));
            }
            all.insert(name);
        }
        Ok(Self { tops: all.iter().filter(|n| !used.contains(*n)).cloned().collect(), all, children })
    }

    /// The newest state of the disk of which `file` is one: a description may be older than the images beside it.
    fn newest(&self, file: Vec<u8>) -> Vec<u8> {
        let mut file = file;
        // A chain has no more members than there are images.
        for _ in 0..self.all.len() {
            match self.children.get(&file).map(Vec::as_slice) {
                Some([only]) => file.clone_from(only),
                _ => break,
            }
        }
        file
    }

    /// The disks that a description names: by the files it names, or else all there are.
    fn of_description(&self, described: &description::Description) -> Vec<(String, Vec<u8>)> {
        let named: Vec<_> = described
            .disks
            .iter()
            .filter_map(|d| {
                let file = images::gate::base_name(&d.file)?.as_bytes().to_vec();
                let name = d.name.clone().unwrap_or_else(|| naming::disk_of_file(&file));
                self.all.contains(&file).then(|| (name, self.newest(file)))
            })
            .collect();
        if !named.is_empty() {
            return named;
        }
        self.tops.iter().map(|file| (naming::disk_of_file(file), file.clone())).collect()
    }
}
