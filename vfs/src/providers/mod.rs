//! Where nodes come from.
//!
//! One module a top folder of the tree: [`jobs`] as they were stored, `clients` with their restore points, [`machines`]
//! whose disks are found in these, `images` that lie outside any backup, [`backup`] with running machines, `restore` that takes
//! them back. `stored` makes the nodes of backup files, [`points`] those of merged folders, [`disks`] the files that a disk is
//! shown as, `files` those of the guest on it, `folder` folders of ours. [`datastore`] is a folder by itself, and what
//! `restore` is made of: the only ones that can be written.

pub mod backup;
mod clients;
pub mod datastore;
pub mod disks;
mod files;
mod folder;
mod images;
pub mod jobs;
pub mod machines;
pub mod points;
mod stored;

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use blockdev::{
    ReadAt, Result,
    encrypted::Secrets,
    images::{Format, gate::Alone, open as open_image},
};
use volreader::archive::Archive;

use crate::node::{Attributes, Dir, Entry, Inode, Kind, Node, Time, Xattr};

/// The inode number of the tree's root.
pub const ROOT_INO: u64 = 1;

/// What the tree shows.
#[derive(Default)]
pub struct Sources {
    /// Volumes and their jobs.
    pub archive: Option<Arc<Archive>>,
    /// Disk images outside any backup.
    pub images: Vec<PathBuf>,
    /// What encrypted volumes of guests are opened with.
    pub secrets: Arc<Secrets>,
    /// Running machines that are backed up.
    pub live: Option<Arc<dyn backup::Live>>,
    /// The folder that takes machines back: the only one that can be written.
    pub restore: Option<Node>,
}

/// A tree, and what its providers know beyond it.
pub struct Tree {
    /// Its root.
    pub root: Node,
    /// The machines in the archive.
    pub machines: Option<Arc<machines::Machines>>,
}

/// The tree of `sources`.
///
/// # Errors
///
/// When an image is not there.
pub fn tree(sources: &Sources) -> Result<Tree> {
    let mut tops: Vec<(&'static [u8], Arc<dyn Dir>)> = Vec::new();
    let mut since = Time::default();
    let mut machines = None;
    if let Some(archive) = &sources.archive {
        let shared = stored::Shared::new(archive);
        since = shared.since();
        let points = points::PointSet::new(&shared);
        let all = machines::Machines::new(Arc::clone(&points), &sources.secrets);
        tops.push((b"jobs", Arc::new(jobs::Jobs::new(Arc::clone(&shared)))));
        tops.push((b"clients", Arc::new(clients::Clients::new(points))));
        tops.push((b"machines", Arc::clone(&all) as Arc<dyn Dir>));
        machines = Some(all);
    }
    if !sources.images.is_empty() {
        let images = images::folder(&sources.images, &sources.secrets)?;
        since = since.max(images.attributes()?.mtime);
        tops.push((b"images", Arc::new(images)));
    }
    if let Some(live) = &sources.live {
        tops.push((b"backup", Arc::new(backup::Backup::new(Arc::clone(live)))));
    }
    if let Some(Node::Dir(restore)) = &sources.restore {
        tops.push((b"restore", Arc::clone(restore)));
    }
    Ok(Tree { root: Node::Dir(Arc::new(Root { tops, since })), machines })
}

/// The files of a guest: the folder `files` of a machine whose disks have these names and bytes.
#[must_use]
pub fn guest_files(disks: Vec<(String, Arc<dyn ReadAt>)>, secrets: &Arc<Secrets>) -> Node {
    let image = |(name, bytes): (String, Arc<dyn ReadAt>)| {
        let own = name.clone();
        let open = move || open_image(&own, Arc::clone(&bytes), Some(Format::Raw), &Alone);
        (name, disks::LazyImage::new(open))
    };
    let named = disks.into_iter().map(image).collect();
    let guest = files::Guest::new(named, Arc::default(), b"live".to_vec(), Time::default(), secrets);
    files::folder(guest, true).node()
}

struct Root {
    tops: Vec<(&'static [u8], Arc<dyn Dir>)>,
    since: Time,
}

impl Inode for Root {
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::of_folder(ROOT_INO, self.since))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl Dir for Root {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        Ok(self.tops.iter().find(|(n, _)| *n == name).map(|(_, dir)| Node::Dir(Arc::clone(dir))))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        for ((name, dir), cookie) in self.tops.iter().zip(1..).skip(cookie as usize) {
            let ino = dir.attributes()?.ino;
            if sink(Entry { name: name.to_vec(), kind: Kind::Dir, ino, cookie }).is_break() {
                break;
            }
        }
        Ok(())
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
