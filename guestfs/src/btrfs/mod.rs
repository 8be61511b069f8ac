//! btrfs.
//!
//! Everything is an item in a B-tree, and B-trees lie in a space of logical addresses that *chunks* map to devices. From
//! below:
//!
//! * `superblock`, `members`: which devices are there, and which superblock counts;
//! * `chunks`, `parity`, `space`: logical addresses as bytes, out of whichever copies or parity are left;
//! * `checksum`, `key`, `node`, `tree`, `changes`: B-trees whose nodes were checked, and items laid over them;
//! * `roots`: the tree of trees, which knows the subvolumes; `log`: what a crashed machine had made durable last;
//! * `inode`, `directory`: what items say of files and names;
//! * `extent`, `unpack`, `data`, `content`: where content is, how it is packed, and its checksums.
//!
//! Subvolumes and snapshots are folders where they were made, below the top level: a [`FileId`] names the subvolume and
//! the inode in it.

mod changes;
mod checksum;
mod chunks;
mod content;
mod data;
mod directory;
mod extent;
mod inode;
mod key;
mod log;
mod members;
mod node;
mod parity;
mod roots;
mod space;
mod superblock;
mod tree;
mod unpack;

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{BlockDevice, Error, ErrorKind, ReadAt, Result, fields, images::layer::Layer, partitions::FsKind};

use self::{
    checksum::name_hash,
    chunks::Chunks,
    content::Content,
    data::{Checked, Plain, Sums},
    directory::Entry,
    inode::{Inode, kind_of_entry},
    key::{Key, kind, object},
    members::Members,
    node::Format,
    roots::Roots,
    space::Space,
    superblock::{DevItem, Superblock},
    tree::{Nodes, Tree},
};
use crate::{DirEntry, FileId, FileSystem, Info, Kind, Metadata, Usage, Xattr};

/// The bit of an inode number that says that it stands for the empty folder that is left of a subvolume in a snapshot
/// of its parent; the other bits say which.
const LEFT_OVER: u64 = 1 << 63;
/// Cookies are below.
const COOKIE_MAX: u64 = 1 << 62;
/// Bound for the extended attributes of one file, in bytes: the kernel lists no more names than 64 KiB.
const XATTRS_MAX: usize = 4 << 20;
/// The longest target of a link that Linux knows.
const TARGET_MAX: usize = 4096;

struct Btrfs {
    roots: Roots,
    /// The subvolume that is mounted when none is named.
    default: u64,
    info: Info,
    usage: Usage,
    sector: u32,
    checked: Arc<dyn ReadAt>,
    plain: Arc<dyn ReadAt>,
}

/// The filesystem on `devices`.
///
/// # Errors
///
/// When it is not one, or has features that cannot be read.
pub fn open(devices: &[Arc<dyn BlockDevice>]) -> Result<Arc<dyn FileSystem>> {
    let (superblock, members) = Members::gather(devices)?;
    let mut notes = members.notes.clone();
    let members = Arc::new(members);
    let format = Format::of(&superblock);

    let system = Chunks::of_system(&superblock.sys_chunks, &members)?;
    let nodes = Arc::new(Nodes::new(Arc::new(Space::new(Arc::clone(&members), system)), format));
    let chunk_tree = Tree::new(nodes, superblock.chunk_root);
    let chunks = read_chunks(&chunk_tree, &members)?;
    notes.extend(missing(&chunk_tree, &members, &chunks, &superblock)?);
    if superblock.is_copy {
        notes.push("its first superblock is damaged: a copy of it is used".to_owned());
    }
    if superblock.is_dump {
        notes.push("it is a dump of metadata, made for debugging: the content of files is not in it".to_owned());
    }

    let copies = chunks.copies_of_data();
    let space = Arc::new(Space::new(members, chunks));
    let nodes = Arc::new(Nodes::new(Arc::clone(&space), format));
    let mut roots = Roots::new(Arc::clone(&nodes), superblock.root);
    let mut logged = Sums::new();
    if let Some(root) = superblock.log_root {
        match log::replay(&nodes, root, &roots, superblock.sector) {
            Ok(replayed) => {
                notes.push("its log was replayed in memory: what was made durable after the last commit".to_owned());
                roots = roots.changed(replayed.changes);
                logged = replayed.sums;
            }
            Err(e) => notes.push(format!("its log cannot be replayed, and the last commit is shown: {e}")),
        }
    }
    let default = roots.default(superblock.root_dir)?.unwrap_or(object::FS_TREE);
    if default != object::FS_TREE {
        notes.push(format!("its default subvolume, which is mounted when none is named, is {default}"));
    }

    let (sector, checksum) = (superblock.sector, superblock.checksum);
    let sums = roots.tree(object::CSUM_TREE);
    if let Err(e) = &sums {
        notes.push(format!("the tree of data checksums cannot be read, and no data that has them: {e}"));
    }
    let checked = Checked { space: Arc::clone(&space), sums, logged, checksum, sector: sector as usize };
    let total = superblock.total_bytes / copies.max(1);
    let btrfs = Btrfs {
        roots,
        default,
        info: Info {
            kind: FsKind::Btrfs,
            label: superblock.label,
            uuid: fields::uuid(&superblock.fsid, 0),
            block_size: sector,
            notes,
        },
        usage: Usage { total, free: total.saturating_sub(superblock.bytes_used), files: None, files_free: None },
        sector,
        checked: Arc::new(checked),
        plain: Arc::new(Plain { space }),
    };
    btrfs.metadata(btrfs.root()).map_err(|e| e.context("the topmost directory of the btrfs"))?;
    Ok(Arc::new(btrfs))
}

/// All chunks.
fn read_chunks(chunk_tree: &Tree, members: &Members) -> Result<Chunks> {
    let mut chunks = Chunks::default();
    let mut items = chunk_tree.of(object::FIRST_CHUNK_TREE, kind::CHUNK_ITEM, 0)?;
    while let Some(item) = items.next()? {
        chunks.add(item.key.offset, item.data(), members)?;
    }
    Ok(chunks)
}

/// What is to be said of devices that are not at hand.
fn missing(tree: &Tree, members: &Members, chunks: &Chunks, superblock: &Superblock) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut items = tree.of(object::DEV_ITEMS, kind::DEV_ITEM, 0)?;
    while let Some(item) = items.next()? {
        let device = DevItem::read(item.data());
        if members.position(device.id, &device.uuid).is_some() || notes.len() >= 64 {
            continue;
        }
        let uuid = fields::uuid(&device.uuid, 0).unwrap_or_default();
        notes.push(if device.fsid == superblock.device.fsid {
            format!("device {} (UUID {uuid}) is missing", device.id)
        } else {
            let seed = fields::uuid(&device.fsid, 0).unwrap_or_default();
            format!("device {} (UUID {uuid}), which is the seed filesystem {seed}, is missing", device.id)
        });
    }
    let (lost, all) = chunks.unreadable();
    if lost > 0 {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        notes.push(format!("{} of {} MiB cannot be read without what is missing", mib(lost), mib(all)));
    }
    Ok(notes)
}

impl Btrfs {
    fn inode(&self, tree: &Tree, file: FileId) -> Result<Inode> {
        let item = tree.get(Key::new(file.number, kind::INODE_ITEM, 0))?;
        let item = item.ok_or_else(|| Error::not_found(format!("there is no {}", Name(file))))?;
        Inode::parse(item.data()).map_err(|e| e.context(Name(file)))
    }

    /// The subvolume and the inode of `file`, which is not the folder that is left of a subvolume.
    fn file(&self, file: FileId) -> Result<(Arc<Tree>, Inode)> {
        let tree = self.roots.subvolume(file.tree)?;
        let inode = self.inode(&tree, file)?;
        Ok((tree, inode))
    }

    /// The subvolume of the directory `dir`; none for one that is empty by its nature.
    fn directory(&self, dir: FileId) -> Result<Option<Arc<Tree>>> {
        if dir.number & LEFT_OVER != 0 {
            return Ok(None);
        }
        let (tree, inode) = self.file(dir)?;
        if inode.kind != Kind::Dir {
            return Err(Error::invalid(format!("{} is not a directory", Name(dir))));
        }
        Ok(Some(tree))
    }

    /// The file that `entry` of the directory `dir` stands for.
    fn target(&self, dir: FileId, entry: &Entry<'_>) -> Result<FileId> {
        let Key { object, kind, .. } = entry.location;
        if !(object::FIRST_FREE..LEFT_OVER).contains(&object) {
            return Err(Error::damaged(format!("{} refers to the inode {object}", Name(dir))));
        }
        Ok(match kind {
            kind::ROOT_ITEM if self.roots.is_child(dir.tree, dir.number, entry.name, object)? => {
                FileId { tree: object, number: object::FIRST_FREE }
            }
            kind::ROOT_ITEM => FileId { tree: dir.tree, number: LEFT_OVER | object },
            kind::INODE_ITEM => FileId { tree: dir.tree, number: object },
            _ => return Err(Error::damaged(format!("{} refers to an item of kind {kind}", Name(dir)))),
        })
    }

    fn entry(&self, dir: FileId, cookie: u64, entry: &Entry<'_>) -> Result<DirEntry> {
        let id = self.target(dir, entry)?;
        if matches!(entry.name, b"." | b"..") || !(1..COOKIE_MAX).contains(&cookie) {
            return Err(Error::damaged(format!("{} has an entry that cannot be, number {cookie}", Name(dir))));
        }
        let kind = match kind_of_entry(entry.kind) {
            Some(kind) => kind,
            None => self.metadata(id)?.kind,
        };
        Ok(DirEntry { name: entry.name.to_vec(), id, kind, cookie })
    }
}

impl FileSystem for Btrfs {
    fn info(&self) -> &Info {
        &self.info
    }

    fn usage(&self) -> Result<Usage> {
        Ok(self.usage)
    }

    fn root(&self) -> FileId {
        FileId { tree: object::FS_TREE, number: object::FIRST_FREE }
    }

    fn default_root(&self) -> FileId {
        let default = FileId { tree: self.default, number: object::FIRST_FREE };
        // One that cannot be read is not mounted either: the topmost directory is what is left.
        if self.metadata(default).is_ok_and(|found| found.kind == Kind::Dir) { default } else { self.root() }
    }

    fn lookup(&self, dir: FileId, name: &[u8]) -> Result<Option<FileId>> {
        let Some(tree) = self.directory(dir)? else { return Ok(None) };
        let Some(item) = tree.get(Key::new(dir.number, kind::DIR_ITEM, name_hash(name)))? else { return Ok(None) };
        let entry = directory::find(item.data(), name).map_err(|e| e.context(Name(dir)))?;
        entry.map(|entry| self.target(dir, &entry)).transpose()
    }

    fn list(&self, dir: FileId, cookie: u64, sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        let Some(tree) = self.directory(dir)? else { return Ok(()) };
        let mut items = tree.of(dir.number, kind::DIR_INDEX, cookie.saturating_add(1))?;
        while let Some(item) = items.next()? {
            let entry = Entry::read(item.data(), 0).map_err(|e| e.context(Name(dir)))?;
            if sink(self.entry(dir, item.key.offset, &entry)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        if file.number & LEFT_OVER != 0 {
            return Ok(left_over());
        }
        Ok(self.file(file)?.1.metadata(self.sector))
    }

    fn content(&self, file: FileId) -> Result<Arc<dyn Layer>> {
        let (tree, inode) = self.file(file)?;
        if inode.kind != Kind::File {
            return Err(Error::invalid(format!("{} is not a regular file", Name(file))));
        }
        let (checked, plain) = (Arc::clone(&self.checked), Arc::clone(&self.plain));
        Ok(Arc::new(Content::new(tree, file.number, &inode, self.sector, checked, plain)?))
    }

    fn link_target(&self, link: FileId) -> Result<Vec<u8>> {
        let (tree, inode) = self.file(link)?;
        if inode.kind != Kind::Symlink {
            return Err(Error::invalid(format!("{} is not a symbolic link", Name(link))));
        }
        let target = content::inline(&tree, link.number, self.sector)?.unwrap_or_default();
        // Some tools store a NUL behind it.
        let target =
            usize::try_from(inode.size).ok().filter(|len| *len <= TARGET_MAX).and_then(|len| target.get(..len));
        let target = target.filter(|target| !target.is_empty());
        let none = || Error::damaged(format!("{} has no target of {} bytes", Name(link), inode.size));
        Ok(target.ok_or_else(none)?.to_vec())
    }

    fn xattrs(&self, file: FileId) -> Result<Vec<Xattr>> {
        if file.number & LEFT_OVER != 0 {
            return Ok(Vec::new());
        }
        let tree = self.roots.subvolume(file.tree)?;
        let mut items = tree.of(file.number, kind::XATTR_ITEM, 0)?;
        let (mut all, mut bytes) = (Vec::new(), 0_usize);
        while let Some(item) = items.next()? {
            bytes = bytes.saturating_add(item.data().len());
            if bytes > XATTRS_MAX {
                let what = format!("{} has extended attributes of more than {XATTRS_MAX} bytes", Name(file));
                return Err(Error::new(ErrorKind::Limit, what));
            }
            for entry in directory::entries(item.data()) {
                let entry = entry.map_err(|e| e.context(Name(file)))?;
                all.push(Xattr { name: entry.name.to_vec(), value: entry.value.to_vec() });
            }
        }
        Ok(all)
    }
}

/// What is left of a subvolume in a snapshot of its parent.
fn left_over() -> Metadata {
    Metadata::without_owner(Kind::Dir, false)
}

/// A file as messages call it.
struct Name(FileId);

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "inode {} of subvolume {}", self.0.number, self.0.tree)
    }
}
