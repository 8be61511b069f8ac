//! ext2, ext3 and ext4, as documented in the kernel's "ext4 Data Structures and Algorithms", whose sections are named in
//! brackets.
//!
//! Opening finds the superblock and replays the journal in memory; all else is read when it is asked for.
//!
//! * [`superblock`], [`features`]: what the volume is ("The Super Block");
//! * [`journal`]: what a crash, or a copy made while the guest ran, left in the log ("Journal (jbd2)");
//! * [`volume`], [`inode`]: groups, inode tables and inodes ("Group Descriptors", "Index Nodes");
//! * [`map`] with [`extents`] and [`indirect`]: where content is ("The Contents of inode.i_block");
//! * [`directory`] with [`htree`], [`dirhash`], [`scanned`] and [`fscrypt`]: names ("Directory Entries");
//! * [`xattr`] with [`acl`]: attributes ("Extended Attributes"), and small content among them;
//! * [`checksum`]: the checksums of all of them ("Checksums").

mod acl;
mod checksum;
mod directory;
mod dirhash;
mod extents;
mod features;
mod fscrypt;
mod htree;
mod indirect;
mod inode;
mod journal;
mod map;
mod scanned;
mod superblock;
mod usage;
mod volume;
mod xattr;

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use blockdev::{BlockDevice, Error, ErrorKind, Result, fields, images::layer::Layer};

use self::{
    directory::Directory,
    htree::Found,
    inode::Inode,
    map::{Content, Map},
    scanned::Scans,
    superblock::Superblock,
    volume::{ROOT, Volume},
};
use crate::{DirEntry, FileId, FileSystem, Info, Kind, Metadata, Usage, Xattr, inline::Inline};

/// Bytes of a link's target: Linux knows no longer paths.
const TARGET_MAX: u64 = 4096;

/// A filesystem.
struct Ext {
    volume: Arc<Volume>,
    info: Info,
    scans: Scans,
    usage: OnceLock<Usage>,
}

/// The filesystem on `device`.
///
/// # Errors
///
/// When it is not one, or has features that cannot be read.
pub fn open(device: Arc<dyn BlockDevice>) -> Result<Arc<dyn FileSystem>> {
    let found = Superblock::find(device.as_ref())?;
    let replayed = journal::replayed(device, &found)?;
    let (device, mut notes) = (replayed.device, replayed.notes);
    // The journal may have a newer one.
    let superblock = if found.is_copy { found } else { Superblock::find(device.as_ref())? };
    if superblock.is_copy {
        notes.push("the first superblock is damaged: a copy of it is used".to_owned());
    }
    if superblock.has_errors {
        notes.push("its own system found errors in it and did not check it since (e2fsck)".to_owned());
    }
    if superblock.blocks * u64::from(superblock.block_size) > device.size() {
        notes.push("the volume is smaller than the filesystem: files at its end cannot be read".to_owned());
    }
    let info = Info {
        kind: superblock.content.kind,
        label: superblock.content.label.clone(),
        uuid: superblock.content.uuid.clone(),
        block_size: superblock.cluster_size,
        notes,
    };
    let volume = Arc::new(Volume::new(device, superblock));
    Ok(Arc::new(Ext { volume, info, scans: Scans::new(), usage: OnceLock::new() }))
}

impl Ext {
    fn inode(&self, file: FileId) -> Result<Inode> {
        match u32::try_from(file.number) {
            Ok(number) if file.tree == 0 => self.volume.file(number),
            _ => Err(Error::not_found(format!("there is no inode {}", file.number))),
        }
    }

    fn directory(&self, dir: FileId) -> Result<Directory> {
        Directory::open(Arc::clone(&self.volume), self.inode(dir)?)
    }

    /// The content of `inode`, as it is stored.
    fn content_of(&self, inode: &Inode) -> Result<Arc<dyn Layer>> {
        let size = inode.size(&self.volume.superblock)?;
        Ok(match inode.is(inode::INLINE) {
            true => Arc::new(Inline::new(xattr::inline(inode)?, size)),
            false => Arc::new(Content::new(Map::new(Arc::clone(&self.volume), inode), size)),
        })
    }

    /// What is stored as the target of the link `inode`.
    fn stored_target(&self, inode: &Inode) -> Result<Vec<u8>> {
        let superblock = &self.volume.superblock;
        let size = inode.size(superblock)?;
        if size > TARGET_MAX {
            return Err(inode.damaged(format_args!("a link of {size} bytes")));
        }
        let len = size as usize;
        if inode.is(inode::INLINE) {
            let mut target = xattr::inline(inode)?;
            target.truncate(len);
            return if target.len() == len { Ok(target) } else { Err(inode.damaged(format_args!("a link cut short"))) };
        }
        // A short target is in the place of the map: then no block is allocated but one for attributes.
        let has_attributes = inode.attribute_block(superblock) != 0;
        let of_attributes = if has_attributes { u64::from(superblock.cluster_size) } else { 0 };
        let is_in_place = size < inode.map().len() as u64 && !inode.is(inode::EXTENTS);
        if is_in_place && inode.allocated(superblock) <= of_attributes {
            return Ok(fields::slice(inode.map(), 0, len).to_vec());
        }
        Content::new(Map::new(Arc::clone(&self.volume), inode), size).read(TARGET_MAX)
    }

    /// What the link `inode` points to; when it is encrypted, that as names are shown.
    fn target(&self, inode: &Inode) -> Result<Vec<u8>> {
        let stored = self.stored_target(inode)?;
        if !inode.is(inode::ENCRYPTED) {
            return Ok(stored);
        }
        let len = usize::from(fields::le16(&stored, 0));
        let name = stored.get(2..).and_then(|rest| rest.get(..len));
        let name = name.ok_or_else(|| inode.damaged(format_args!("an encrypted link cut short")))?;
        Ok(fscrypt::shown(dirhash::Hash::default(), name))
    }
}

impl FileSystem for Ext {
    fn info(&self) -> &Info {
        &self.info
    }

    fn usage(&self) -> Result<Usage> {
        Ok(*self.usage.get_or_init(|| usage::count(&self.volume)))
    }

    fn root(&self) -> FileId {
        FileId::of(ROOT.into())
    }

    fn lookup(&self, dir: FileId, name: &[u8]) -> Result<Option<FileId>> {
        let directory = self.directory(dir)?;
        let in_tree = match directory.is_indexed() && directory.has_plain_names() {
            true => htree::find(&directory, name),
            false => Ok(Found::Unknown),
        };
        let found = match in_tree {
            Ok(Found::Inode(inode)) => Some(inode),
            Ok(Found::Nothing) => None,
            // A damaged tree does not hide the entries below it.
            Ok(Found::Unknown) | Err(_) => self.scans.find(&directory, name)?,
        };
        Ok(found.map(|inode| FileId::of(inode.into())))
    }

    fn list(&self, dir: FileId, cookie: u64, sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        let directory = self.directory(dir)?;
        directory.walk(cookie, |entry| {
            sink(DirEntry {
                name: directory.name(entry).into_owned(),
                id: FileId::of(entry.inode.into()),
                kind: directory.kind(entry),
                cookie: entry.next,
            })
        })
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        let inode = self.inode(file)?;
        let mut metadata = inode.metadata(&self.volume.superblock)?;
        if metadata.kind == Kind::Symlink && inode.is(inode::ENCRYPTED) {
            metadata.size = self.target(&inode)?.len() as u64;
        }
        Ok(metadata)
    }

    fn content(&self, file: FileId) -> Result<Arc<dyn Layer>> {
        let inode = self.inode(file)?;
        if inode.kind()? != Kind::File {
            return Err(Error::invalid(format!("inode {} is not a regular file", inode.number)));
        }
        if inode.is(inode::ENCRYPTED) {
            let message =
                format!("inode {} is encrypted by the guest (fscrypt): restore it as a whole disk", inode.number);
            return Err(Error::new(ErrorKind::Locked, message));
        }
        self.content_of(&inode)
    }

    fn link_target(&self, link: FileId) -> Result<Vec<u8>> {
        let inode = self.inode(link)?;
        if inode.kind()? != Kind::Symlink {
            return Err(Error::invalid(format!("inode {} is not a symbolic link", inode.number)));
        }
        self.target(&inode)
    }

    fn xattrs(&self, file: FileId) -> Result<Vec<Xattr>> {
        xattr::all(&self.volume, &self.inode(file)?)
    }
}
