//! XFS, versions 4 and 5.
//!
//! * `superblock`: geometry, features, addresses; `check`: what version 5 blocks say of themselves;
//! * `volume`: both with the cached blocks; `inode`, `map` (extents), `content`, `symlink`;
//! * `dir`, `attr`: directories and attributes, `hashes`: the tree of hashes that both have;
//! * `log`: the journal, which is replayed in memory where the volume was copied in use;
//! * `usage`: counters.
//!
//! Facts are from "XFS Algorithms & Data Structures" (3rd edition), whose sections are named where they are used.

mod attr;
mod check;
mod content;
mod dir;
mod hashes;
mod inode;
mod log;
mod map;
mod superblock;
mod symlink;
mod usage;
mod volume;

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{BlockDevice, Error, Result, images::layer::Layer, partitions::FsKind};

use self::{content::Content, superblock::Superblock, volume::Volume};
use crate::{DirEntry, FileId, FileSystem, Info, Kind, Metadata, Usage, Xattr};

/// An XFS filesystem.
struct Xfs {
    volume: Arc<Volume>,
    info: Info,
    /// Whether its counters are those of a clean unmount.
    clean: bool,
}

/// The filesystem on `device`.
///
/// # Errors
///
/// When it is not one, or has features that cannot be read.
pub fn open(device: Arc<dyn BlockDevice>) -> Result<Arc<dyn FileSystem>> {
    let sb = Superblock::read(device.as_ref())?;
    let log::Replayed { device, changed, clean, mut notes } = log::replayed(&sb, device);
    // The log may have the superblock itself: a volume that was grown.
    let sb = if changed { Superblock::read(device.as_ref())? } else { sb };
    if sb.is_copy {
        notes.push(
            "its first superblock is damaged: a copy of it is used, and how full it is may be out of date".to_owned(),
        );
    }
    if sb.needs_repair {
        notes.push("the volume asks for xfs_repair: what it contains may contradict itself".to_owned());
    }
    if device.size() < sb.len() {
        notes.push(format!(
            "the volume ends after {} of {} bytes: files behind cannot be read",
            device.size(),
            sb.len()
        ));
    }
    let info = Info {
        kind: FsKind::Xfs,
        label: sb.label.clone(),
        uuid: sb.uuid_text.clone(),
        block_size: sb.block_len() as u32,
        notes,
    };
    let volume = Arc::new(Volume::new(sb, device));
    let root = volume.inode(volume.sb.root).map_err(|e| e.context("the topmost directory cannot be read"))?;
    if root.kind != Kind::Dir {
        return Err(Error::damaged(format!("the topmost directory, inode {}, is none", root.number)));
    }
    Ok(Arc::new(Xfs { volume, info, clean }))
}

impl FileSystem for Xfs {
    fn info(&self) -> &Info {
        &self.info
    }

    fn usage(&self) -> Result<Usage> {
        usage::usage(&self.volume, self.clean)
    }

    fn root(&self) -> FileId {
        FileId::of(self.volume.sb.root)
    }

    fn lookup(&self, dir: FileId, name: &[u8]) -> Result<Option<FileId>> {
        dir::lookup(&self.volume, &self.volume.inode(dir.number)?, name)
    }

    fn list(&self, dir: FileId, cookie: u64, sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        dir::list(&self.volume, &self.volume.inode(dir.number)?, cookie, sink)
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        Ok(self.volume.inode(file.number)?.metadata(&self.volume.sb))
    }

    fn content(&self, file: FileId) -> Result<Arc<dyn Layer>> {
        let inode = self.volume.inode(file.number)?;
        Ok(Arc::new(Content::new(Arc::clone(&self.volume), &inode)?))
    }

    fn link_target(&self, link: FileId) -> Result<Vec<u8>> {
        symlink::target(&self.volume, &self.volume.inode(link.number)?)
    }

    fn xattrs(&self, file: FileId) -> Result<Vec<Xattr>> {
        attr::list(&self.volume, &self.volume.inode(file.number)?)
    }
}
