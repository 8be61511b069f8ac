//! Names: each is stored in its directory under its hash and under its number, and at its inode as a reference.

use std::collections::BTreeSet;

use blockdev::{
    Error, ErrorKind, Result,
    fields::{le16, le64, slice},
};

use super::{NLINK, Replay, SIZE, set};
use crate::{
    Kind,
    btrfs::{
        checksum::{extref_hash, name_hash},
        directory::{self, Entry},
        key::{Key, kind, object},
    },
};

/// Names that one step may remove.
const VICTIMS_MAX: usize = 1 << 18;
/// Bytes of a directory entry before its name.
const ENTRY: usize = 30;

/// A reference from an inode to its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reference<'a> {
    /// The directory.
    parent: u64,
    /// The number of the name there.
    index: u64,
    name: &'a [u8],
    /// All of it as it is stored.
    bytes: &'a [u8],
}

/// The references of the item `key`.
fn references(key: Key, mut item: &[u8]) -> Result<Vec<Reference<'_>>> {
    let mut all = Vec::new();
    while !item.is_empty() {
        let (parent, rest, header) = match key.kind {
            kind::INODE_EXTREF => (le64(item, 0), item.get(8..).unwrap_or_default(), 18),
            _ => (key.offset, item, 10),
        };
        let len = usize::from(le16(rest, 8));
        let name = slice(rest, 10, len);
        if name.len() < len || name.is_empty() {
            return Err(Error::damaged(format!("inode {} has a reference that is cut off", key.object)));
        }
        let bytes = slice(item, 0, header + len);
        all.push(Reference { parent, index: le64(rest, 0), name, bytes });
        item = item.get(header + len..).unwrap_or_default();
    }
    Ok(all)
}

/// The keys under which a reference of `number` to `name` in `parent` can be.
fn reference_keys(number: u64, parent: u64, name: &[u8]) -> [Key; 2] {
    let extended = Key::new(number, kind::INODE_EXTREF, extref_hash(parent, name));
    [Key::new(number, kind::INODE_REF, parent), extended]
}

/// Whether `entry` stands for an inode: names of subvolumes are never logged.
fn is_inode(entry: &Entry<'_>) -> bool {
    entry.location.kind == kind::INODE_ITEM
}

impl Replay<'_> {
    /// Removes the names from the directory `dir` that are in a range of numbers which the log has all names of, and not
    /// in the log.
    pub(super) fn forget_names(&mut self, dir: u64) -> Result<()> {
        let mut victims = Vec::new();
        let mut ranges = self.log.of(dir, kind::DIR_LOG_INDEX, 0)?;
        while let Some(range) = ranges.next()? {
            let last = Key::new(dir, kind::DIR_INDEX, le64(range.data(), 0));
            let end = last.next().unwrap_or(Key::MAX);
            let mut items = self.tree.range(Key::new(dir, kind::DIR_INDEX, range.key.offset)..end)?;
            while let Some(item) = items.next()? {
                let entry = Entry::read(item.data(), 0)?;
                let logged = self.log.get(item.key)?;
                let logged = logged.as_ref().map(|l| directory::find(l.data(), entry.name)).transpose()?.flatten();
                if logged.is_none() && is_inode(&entry) {
                    victims.push((entry.name.to_vec(), entry.location.object));
                }
                if victims.len() > VICTIMS_MAX {
                    return Err(Error::new(ErrorKind::Limit, "the log of the btrfs removes too many names"));
                }
            }
        }
        victims.into_iter().try_for_each(|(name, number)| self.unlink(dir, &name, number))
    }

    /// A name in a directory that was logged.
    pub(super) fn name(&mut self, key: Key, entry: &Entry<'_>) -> Result<()> {
        let (dir, number) = (key.object, entry.location.object);
        if !is_inode(entry) || self.kind(dir)? != Some(Kind::Dir) {
            return Ok(());
        }
        // A name whose inode was never made durable is lost.
        let Some(kind) = self.kind(number)? else { return Ok(()) };
        if let Some(item) = self.tree.get(key)? {
            let there = Entry::read(item.data(), 0)?;
            if there.name == entry.name {
                if there.location == entry.location {
                    return Ok(());
                }
                if is_inode(&there) {
                    self.unlink(dir, entry.name, there.location.object)?;
                }
            }
        }
        // The inode's own references come later.
        for key in reference_keys(number, dir, entry.name) {
            if let Some(item) = self.log.get(key)?
                && references(key, item.data())?.iter().any(|r| r.parent == dir && r.name == entry.name)
            {
                return Ok(());
            }
        }
        if self.entry(dir, entry.name)?.is_some() || self.tree.get(key)?.is_some() {
            return Ok(());
        }
        self.link(dir, entry.name, number, kind, key.offset)?;
        let at = Key::new(number, kind::INODE_REF, dir);
        let mut item = self.tree.get(at)?.map(|item| item.data().to_vec()).unwrap_or_default();
        item.extend_from_slice(&key.offset.to_le_bytes());
        item.extend_from_slice(&(entry.name.len() as u16).to_le_bytes());
        item.extend_from_slice(entry.name);
        self.tree.put(at, Some(item.into()))?;
        if kind != Kind::Dir {
            self.touched.insert(number);
        }
        Ok(())
    }

    /// The references of an inode, which are all that it has in this item.
    pub(super) fn references(&mut self, key: Key, item: &[u8]) -> Result<()> {
        let (number, logged) = (key.object, references(key, item)?);
        let Some(kind) = self.kind(number)? else { return Ok(()) };
        for reference in &logged {
            let Reference { parent, index, name, .. } = *reference;
            // The topmost directory refers to itself.
            if parent == number || self.kind(parent)? != Some(Kind::Dir) {
                return Ok(());
            }
            if self.is_linked(parent, name, number, index)? {
                continue;
            }
            for key in reference_keys(number, parent, name) {
                self.forget_references(key, Some(parent))?;
            }
            if let Some(other) = self.entry(parent, name)? {
                self.unlink(parent, name, other)?;
            }
            self.link(parent, name, number, kind, index)?;
        }
        self.forget_references(key, None)?;
        self.tree.put(key, Some(item.into()))
    }

    /// Removes the names that the item `key` refers to (in `parent`, if one is given), and not that in the log.
    fn forget_references(&mut self, key: Key, parent: Option<u64>) -> Result<()> {
        let Some(item) = self.tree.get(key)? else { return Ok(()) };
        let logged = self.log.get(key)?;
        let logged = logged.as_ref().map(|item| references(key, item.data())).transpose()?.unwrap_or_default();
        for there in references(key, item.data())? {
            let is_same = |r: &&Reference<'_>| r.parent == there.parent && r.name == there.name;
            if parent.is_none_or(|parent| parent == there.parent) && logged.iter().find(is_same).is_none() {
                self.unlink(there.parent, there.name, key.object)?;
            }
        }
        Ok(())
    }

    /// Whether `name` in `dir`, under this number, stands for the inode `number`.
    fn is_linked(&self, dir: u64, name: &[u8], number: u64, index: u64) -> Result<bool> {
        let Some(item) = self.tree.get(Key::new(dir, kind::DIR_INDEX, index))? else { return Ok(false) };
        let entry = Entry::read(item.data(), 0)?;
        let is_there = entry.name == name && is_inode(&entry) && entry.location.object == number;
        Ok(is_there && self.entry(dir, name)? == Some(number))
    }

    /// The inode that `name` in `dir` stands for.
    fn entry(&self, dir: u64, name: &[u8]) -> Result<Option<u64>> {
        let Some(item) = self.tree.get(Key::new(dir, kind::DIR_ITEM, name_hash(name)))? else { return Ok(None) };
        Ok(directory::find(item.data(), name)?.map(|entry| entry.location.object))
    }

    /// Adds `name` to `dir` under this number.
    fn link(&mut self, dir: u64, name: &[u8], number: u64, kind: Kind, index: u64) -> Result<()> {
        let mut entry = Vec::with_capacity(ENTRY + name.len());
        entry.extend_from_slice(&number.to_le_bytes());
        entry.push(kind::INODE_ITEM);
        // The rest of the location, the transaction, and the length of a value.
        entry.extend_from_slice(&[0; 8 + 8 + 2]);
        entry.extend_from_slice(&(name.len() as u16).to_le_bytes());
        entry.push(number_of_kind(kind));
        entry.extend_from_slice(name);
        self.tree.put(Key::new(dir, kind::DIR_INDEX, index), Some(entry.as_slice().into()))?;
        let key = Key::new(dir, kind::DIR_ITEM, name_hash(name));
        let mut item = self.tree.get(key)?.map(|item| item.data().to_vec()).unwrap_or_default();
        item.extend_from_slice(&entry);
        self.tree.put(key, Some(item.into()))?;
        self.change_inode(dir, |inode| set(inode, SIZE, le64(inode, SIZE).saturating_add(2 * name.len() as u64)))
    }

    /// Removes `name`, which stands for the inode `number`, from `dir`.
    fn unlink(&mut self, dir: u64, name: &[u8], number: u64) -> Result<()> {
        for key in reference_keys(number, dir, name) {
            let Some(item) = self.tree.get(key)? else { continue };
            let all = references(key, item.data())?;
            let (gone, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|r| r.parent == dir && r.name == name);
            let left = left.iter().flat_map(|r| r.bytes).copied().collect::<Vec<u8>>();
            for reference in &gone {
                let numbered = Key::new(dir, kind::DIR_INDEX, reference.index);
                let is_it = |item: &[u8]| Entry::read(item, 0).is_ok_and(|entry| entry.name == name);
                if self.tree.get(numbered)?.is_some_and(|item| is_it(item.data())) {
                    self.tree.put(numbered, None)?;
                }
            }
            if !gone.is_empty() {
                self.put_or_remove(key, left)?;
            }
        }
        self.touched.insert(number);
        let key = Key::new(dir, kind::DIR_ITEM, name_hash(name));
        let Some(item) = self.tree.get(key)? else { return Ok(()) };
        let mut left = Vec::new();
        for entry in directory::entries(item.data()) {
            let entry = entry?;
            if entry.name != name {
                left.extend_from_slice(entry.bytes);
            }
        }
        if left.len() == item.data().len() {
            return Ok(());
        }
        self.put_or_remove(key, left)?;
        self.change_inode(dir, |inode| set(inode, SIZE, le64(inode, SIZE).saturating_sub(2 * name.len() as u64)))
    }

    /// Sets the number of links of each inode concerned to that of its names. A directory that has none is empty: what
    /// is in it goes too.
    pub(super) fn count_names(&mut self) -> Result<()> {
        let mut done = BTreeSet::new();
        while let Some(number) = self.touched.pop_first() {
            let mut names = 0_u32;
            for kind in [kind::INODE_REF, kind::INODE_EXTREF] {
                let mut items = self.tree.of(number, kind, 0)?;
                while let Some(item) = items.next()? {
                    names = names.saturating_add(references(item.key, item.data())?.len() as u32);
                }
            }
            self.change_inode(number, |inode| {
                if let Some(field) = inode.get_mut(NLINK..NLINK + 4) {
                    field.copy_from_slice(&names.to_le_bytes());
                }
            })?;
            let is_gone = names == 0 && number != object::FIRST_FREE && done.insert(number);
            if is_gone && self.kind(number)? == Some(Kind::Dir) {
                self.empty(number)?;
            }
        }
        Ok(())
    }

    /// Removes all names from the directory `dir`.
    fn empty(&mut self, dir: u64) -> Result<()> {
        let mut victims = Vec::new();
        let mut items = self.tree.of(dir, kind::DIR_INDEX, 0)?;
        while let Some(item) = items.next()? {
            let entry = Entry::read(item.data(), 0)?;
            if is_inode(&entry) {
                victims.push((entry.name.to_vec(), entry.location.object));
            }
            if victims.len() > VICTIMS_MAX {
                return Err(Error::new(ErrorKind::Limit, "the log of the btrfs removes too many names"));
            }
        }
        victims.into_iter().try_for_each(|(name, number)| self.unlink(dir, &name, number))
    }
}

/// The number of a type in a directory entry.
const fn number_of_kind(kind: Kind) -> u8 {
    match kind {
        Kind::File => 1,
        Kind::Dir => 2,
        Kind::CharDevice => 3,
        Kind::BlockDevice => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two references in one item of each kind.
    #[test]
    fn references_are_taken_apart() {
        let mut plain = Vec::new();
        let mut extended = Vec::new();
        for (index, name) in [(7_u64, "one"), (9, "three")] {
            let mut tail = index.to_le_bytes().to_vec();
            tail.extend((name.len() as u16).to_le_bytes());
            tail.extend(name.as_bytes());
            plain.extend(&tail);
            extended.extend(300_u64.to_le_bytes());
            extended.extend(&tail);
        }
        for (key, item) in
            [(Key::new(1, kind::INODE_REF, 300), &plain), (Key::new(1, kind::INODE_EXTREF, 5), &extended)]
        {
            let found = references(key, item).unwrap();
            let short: Vec<_> = found.iter().map(|r| (r.parent, r.index, r.name)).collect();
            assert_eq!(short, [(300, 7, b"one".as_slice()), (300, 9, b"three")]);
            assert_eq!(found.iter().flat_map(|r| r.bytes).copied().collect::<Vec<u8>>(), *item);
            assert!(references(key, &item[..item.len() - 1]).is_err());
        }
    }
}
