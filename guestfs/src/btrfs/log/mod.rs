//! The log: what a machine that crashed had made durable after its last commit.
//!
//! `fsync` does not commit the whole filesystem. It writes the items of the file, and of the directories it needs, to a
//! *log tree* of the subvolume; at the next mount the kernel replays it. The same is done here, and the outcome is laid
//! over the subvolume as changes in memory. As in the kernel, the log is walked three times: inodes; names in directories
//! that were logged; everything else. Afterwards the names of each inode concerned are counted.

mod extents;
mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use blockdev::{
    Error, ErrorKind, Result,
    fields::{le32, le64},
};

use super::{
    changes::Changes,
    data::Sums,
    directory::{self, Entry},
    inode::Inode,
    key::{Key, kind, object},
    node::Pointer,
    roots::{Roots, root_of},
    tree::{Item, Nodes, Tree},
};
use crate::Kind;

/// Bound for the checksums in a log, in bytes: those of 16 GiB of data.
const SUMS_MAX: usize = 16 << 20;

/// Places of fields in an inode item.
const GENERATION: usize = 0;
const SIZE: usize = 16;
const BYTES: usize = 24;
const NLINK: usize = 40;

/// What the logs of all subvolumes say.
#[derive(Default)]
pub struct Replayed {
    /// What is changed, by subvolume.
    pub changes: BTreeMap<u64, Arc<Changes>>,
    /// Checksums of data that was written after the last commit.
    pub sums: Sums,
}

/// Replays the logs whose tree of trees is at `root`.
///
/// # Errors
///
/// When a log cannot be read. Then the last commit is what can be shown.
pub fn replay(nodes: &Arc<Nodes>, root: Pointer, roots: &Roots, sector: u32) -> Result<Replayed> {
    let mut replayed = Replayed::default();
    let logs = Tree::new(Arc::clone(nodes), root);
    let mut items = logs.of(object::TREE_LOG, kind::ROOT_ITEM, 0)?;
    while let Some(item) = items.next()? {
        let id = item.key.offset;
        let log = Tree::new(Arc::clone(nodes), root_of(item.data())?);
        let tree = match roots.tree(id) {
            Ok(tree) => tree,
            // A subvolume that was deleted since.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let replay = Replay { tree, log: &log, sector, ignored: BTreeSet::new(), touched: BTreeSet::new() };
        replayed.changes.insert(id, replay.run()?);
        add_sums(&log, &mut replayed.sums)?;
    }
    Ok(replayed)
}

/// Adds the checksums in `log`.
fn add_sums(log: &Tree, sums: &mut Sums) -> Result<()> {
    let mut bytes: usize = sums.values().map(|sums| sums.len()).sum();
    let mut items = log.of(object::EXTENT_CSUM, kind::EXTENT_CSUM, 0)?;
    while let Some(item) = items.next()? {
        bytes = bytes.saturating_add(item.data().len());
        if bytes > SUMS_MAX {
            return Err(Error::new(ErrorKind::Limit, "the log of the btrfs has more checksums than can be held"));
        }
        sums.insert(item.key.offset, item.data().into());
    }
    Ok(())
}

/// The replay of one log.
struct Replay<'a> {
    /// The subvolume, and over it what was replayed so far.
    tree: Tree,
    log: &'a Tree,
    sector: u32,
    /// Inodes that had no name when they were logged: nothing of them counts.
    ignored: BTreeSet<u64>,
    /// Inodes whose names are to be counted at the end.
    touched: BTreeSet<u64>,
}

impl Replay<'_> {
    fn run(mut self) -> Result<Arc<Changes>> {
        self.each(|replay, item| match item.key.kind {
            kind::INODE_ITEM => replay.inode(item.key, item.data()),
            _ => Ok(()),
        })?;
        self.each(|replay, item| match item.key.kind {
            kind::DIR_INDEX => replay.name(item.key, &Entry::read(item.data(), 0)?),
            _ => Ok(()),
        })?;
        self.each(|replay, item| match item.key.kind {
            kind::XATTR_ITEM => replay.tree.put(item.key, Some(item.data().into())),
            kind::INODE_REF | kind::INODE_EXTREF => replay.references(item.key, item.data()),
            kind::EXTENT_DATA => replay.extent(item.key, item.data()),
            _ => Ok(()),
        })?;
        self.count_names()?;
        Ok(self.tree.into_changes())
    }

    /// Calls `replay` with each item of an inode in the log that counts.
    fn each(&mut self, mut replay: impl FnMut(&mut Self, &Item) -> Result<()>) -> Result<()> {
        let first = Key::new(object::FIRST_FREE, 0, 0);
        let mut items = self.log.range(first..Key::new(object::LAST_FREE, 0, 0))?;
        while let Some(item) = items.next()? {
            if !self.ignored.contains(&item.key.object) {
                replay(self, &item)?;
            }
        }
        Ok(())
    }

    /// An inode, its attributes that are gone, the names that are gone from it, and its content behind its end.
    fn inode(&mut self, key: Key, item: &[u8]) -> Result<()> {
        let inode = Inode::parse(item)?;
        if le32(item, NLINK) == 0 {
            self.ignored.insert(key.object);
            return Ok(());
        }
        self.forget_attributes(key.object)?;
        if inode.kind == Kind::Dir {
            self.forget_names(key.object)?;
        }
        let size = self.put_inode(key, item, inode.kind)?;
        if inode.kind == Kind::File {
            let end = size.checked_next_multiple_of(self.sector.into()).unwrap_or(u64::MAX);
            self.drop_extents(key.object, end, u64::MAX)?;
        }
        self.touched.insert(key.object);
        Ok(())
    }

    /// Puts the logged inode `item` in the place of the one that is there; its size then.
    fn put_inode(&mut self, key: Key, item: &[u8], logged: Kind) -> Result<u64> {
        let mut new = item.to_vec();
        match self.tree.get(key)? {
            Some(old) => {
                let old = old.data();
                let is_same_kind = Inode::parse(old)?.kind == logged;
                if le64(item, GENERATION) == 0 {
                    // It was logged only so that it exists; a size that is 0 then says nothing.
                    new = old.to_vec();
                    if logged == Kind::File && is_same_kind && le64(item, SIZE) != 0 {
                        set(&mut new, SIZE, le64(item, SIZE));
                    }
                } else {
                    set(&mut new, BYTES, le64(old, BYTES));
                    if logged == Kind::Dir {
                        set(&mut new, SIZE, if is_same_kind { le64(old, SIZE) } else { 0 });
                    }
                }
            }
            // Names and extents that are replayed count themselves.
            None => {
                set(&mut new, BYTES, 0);
                if logged == Kind::Dir {
                    set(&mut new, SIZE, 0);
                }
            }
        }
        let size = le64(&new, SIZE);
        self.tree.put(key, Some(new.into()))?;
        Ok(size)
    }

    /// Removes the attributes of an inode that the log, which has all of them, does not have.
    fn forget_attributes(&mut self, number: u64) -> Result<()> {
        let mut gone = Vec::new();
        let mut items = self.tree.of(number, kind::XATTR_ITEM, 0)?;
        while let Some(item) = items.next()? {
            let logged = self.log.get(item.key)?;
            let mut kept = Vec::new();
            for entry in directory::entries(item.data()) {
                let entry = entry?;
                if logged.as_ref().map(|l| directory::find(l.data(), entry.name)).transpose()?.flatten().is_some() {
                    kept.extend_from_slice(entry.bytes);
                }
            }
            if kept.len() < item.data().len() {
                gone.push((item.key, kept));
            }
        }
        gone.into_iter().try_for_each(|(key, kept)| self.put_or_remove(key, kept))
    }

    /// Puts `bytes` in the place of the item `key`; without any, there is no item.
    fn put_or_remove(&mut self, key: Key, bytes: Vec<u8>) -> Result<()> {
        self.tree.put(key, (!bytes.is_empty()).then(|| bytes.into()))
    }

    /// Changes the inode item of `number`, if there is one.
    fn change_inode(&mut self, number: u64, change: impl FnOnce(&mut [u8])) -> Result<()> {
        let key = Key::new(number, kind::INODE_ITEM, 0);
        let Some(item) = self.tree.get(key)? else { return Ok(()) };
        let mut bytes = item.data().to_vec();
        change(&mut bytes);
        if bytes != item.data() {
            self.tree.put(key, Some(bytes.into()))?;
        }
        Ok(())
    }

    /// What kind of file `number` is; none if it does not exist.
    fn kind(&self, number: u64) -> Result<Option<Kind>> {
        let item = self.tree.get(Key::new(number, kind::INODE_ITEM, 0))?;
        item.map(|item| Inode::parse(item.data()).map(|inode| inode.kind)).transpose()
    }
}

/// Sets the 64-bit field at `at`.
fn set(bytes: &mut [u8], at: usize, value: u64) {
    if let Some(field) = bytes.get_mut(at..at + 8) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}
