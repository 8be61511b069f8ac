//! The names in a datastore, in memory: nobody else changes the folder, so what is known at the start stays known.
//!
//! With it a node is found by its number wherever clients have moved it, which the host's filesystem cannot tell.

use std::collections::{BTreeMap, HashMap};

use blockdev::{Error, ErrorKind, Result};
use xxhash_rust::xxh3::xxh3_64;

use crate::node::Kind;

/// Nodes of a datastore, at most: each costs some 200 bytes of memory.
pub const NODES_MAX: usize = 1 << 17;

/// Bytes of the longest path of a directory. The host takes 4096 in one call, and so do most clients.
const PATH_MAX: usize = 3800;

/// Cookies of listings have fewer bits than the hashes that they are made of: doors add to them.
const COOKIE_BITS: u32 = 61;

/// A node.
struct Known {
    kind: Kind,
    /// The directories that it is in, and its names there. Directories have one, the topmost none.
    names: Vec<(u64, Vec<u8>)>,
    children: Children,
}

/// What is in a directory.
#[derive(Default)]
struct Children {
    by_name: HashMap<Vec<u8>, Child>,
    /// Cookies come from names: going on with a listing works over restarts, and whatever came or went meanwhile.
    by_cookie: BTreeMap<u64, Vec<u8>>,
}

#[derive(Clone, Copy)]
struct Child {
    ino: u64,
    cookie: u64,
}

/// An entry of a directory.
pub struct Named {
    pub name: Vec<u8>,
    pub ino: u64,
    pub kind: Kind,
    pub cookie: u64,
}

/// The nodes by number.
pub struct Index {
    root: u64,
    nodes: HashMap<u64, Known>,
}

impl Index {
    /// With the topmost directory only.
    pub fn new(root: u64) -> Self {
        let top = Known { kind: Kind::Dir, names: Vec::new(), children: Children::default() };
        Self { root, nodes: HashMap::from([(root, top)]) }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// What the node is.
    pub fn kind(&self, ino: u64) -> Option<Kind> {
        self.nodes.get(&ino).map(|known| known.kind)
    }

    /// A directory that has the node, and its name there.
    pub fn name(&self, ino: u64) -> Option<(u64, &[u8])> {
        self.nodes.get(&ino)?.names.first().map(|(dir, name)| (*dir, name.as_slice()))
    }

    /// The child of `dir` called `name`.
    pub fn child(&self, dir: u64, name: &[u8]) -> Option<(u64, Kind)> {
        let ino = self.nodes.get(&dir)?.children.by_name.get(name)?.ino;
        Some((ino, self.kind(ino)?))
    }

    /// Entries of `dir` after `cookie`, in the order of cookies, at most `most`.
    pub fn list(&self, dir: u64, cookie: u64, most: usize) -> Vec<Named> {
        let Some(known) = self.nodes.get(&dir) else { return Vec::new() };
        let after = known.children.by_cookie.range(cookie.saturating_add(1)..);
        let named = after.filter_map(|(&cookie, name)| {
            let (ino, kind) = self.child(dir, name)?;
            Some(Named { name: name.clone(), ino, kind, cookie })
        });
        named.take(most).collect()
    }

    /// Whether nothing is in `dir`.
    pub fn is_empty(&self, dir: u64) -> bool {
        self.nodes.get(&dir).is_none_or(|known| known.children.by_name.is_empty())
    }

    /// The names from the topmost directory to the node.
    pub fn path(&self, ino: u64) -> Option<Vec<Vec<u8>>> {
        let mut path = Vec::new();
        let mut at = ino;
        while at != self.root {
            let (dir, name) = self.name(at)?;
            path.push(name.to_vec());
            at = dir;
        }
        path.reverse();
        Some(path)
    }

    /// Whether `ino` is `dir` or lies in it.
    pub fn is_within(&self, ino: u64, dir: u64) -> bool {
        let mut at = ino;
        loop {
            if at == dir {
                return true;
            }
            match self.name(at) {
                Some((parent, _)) => at = parent,
                None => return false,
            }
        }
    }

    /// Fails unless a node may come to be called `name` in `dir`: one that is moved with all that it has, or a new one.
    pub fn check_room(&self, dir: u64, name: &[u8], moved: Option<u64>) -> Result<()> {
        if moved.is_none() && self.nodes.len() >= NODES_MAX {
            return Err(Error::new(ErrorKind::NoSpace, format!("a datastore has at most {NODES_MAX} files")));
        }
        let above = self.path(dir).unwrap_or_default().iter().map(|name| name.len() + 1).sum::<usize>();
        let below = moved.map_or(0, |ino| self.deepest(ino));
        if above + name.len() + 1 + below > PATH_MAX {
            let shown = name.escape_ascii();
            return Err(Error::invalid(format!("'{shown}' would lie deeper than {PATH_MAX} bytes of names")));
        }
        Ok(())
    }

    /// Bytes of the longest path below a node.
    fn deepest(&self, ino: u64) -> usize {
        let (mut longest, mut rest) = (0, vec![(ino, 0)]);
        while let Some((at, len)) = rest.pop() {
            longest = longest.max(len);
            let children = self.nodes.get(&at).into_iter().flat_map(|known| &known.children.by_name);
            rest.extend(children.map(|(name, child)| (child.ino, len + name.len() + 1)));
        }
        longest
    }

    /// Note that `dir` has the node `ino` by the name `name`, which is free.
    pub fn insert(&mut self, dir: u64, name: &[u8], ino: u64, kind: Kind) {
        let Some(parent) = self.nodes.get_mut(&dir) else { return };
        let children = &mut parent.children;
        let mut cookie = (xxh3_64(name) >> (64 - COOKIE_BITS)).max(1);
        while children.by_cookie.contains_key(&cookie) {
            cookie += 1;
        }
        children.by_cookie.insert(cookie, name.to_vec());
        children.by_name.insert(name.to_vec(), Child { ino, cookie });
        let known = self.nodes.entry(ino);
        let known = known.or_insert_with(|| Known { kind, names: Vec::new(), children: Children::default() });
        known.names.push((dir, name.to_vec()));
    }

    /// Forget the entry `name` of `dir`; whether that was the node's last name, and it is forgotten, too.
    pub fn remove(&mut self, dir: u64, name: &[u8]) -> bool {
        let Some(child) = self.unlink(dir, name) else { return false };
        let gone = self.nodes.get(&child).is_some_and(|known| known.names.is_empty());
        if gone {
            self.nodes.remove(&child);
        }
        gone
    }

    /// Make the entry `name` of `dir` the entry `to_name`, which is free, of `to`.
    pub fn rename(&mut self, dir: u64, name: &[u8], to: u64, to_name: &[u8]) {
        let Some((ino, kind)) = self.child(dir, name) else { return };
        self.unlink(dir, name);
        self.insert(to, to_name, ino, kind);
    }

    fn unlink(&mut self, dir: u64, name: &[u8]) -> Option<u64> {
        let children = &mut self.nodes.get_mut(&dir)?.children;
        let child = children.by_name.remove(name)?;
        children.by_cookie.remove(&child.cookie);
        if let Some(known) = self.nodes.get_mut(&child.ino) {
            known.names.retain(|(parent, own)| (*parent, own.as_slice()) != (dir, name));
        }
        Some(child.ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_through_moves() {
        let mut index = Index::new(1);
        index.insert(1, b"a", 2, Kind::Dir);
        index.insert(2, b"b", 3, Kind::Dir);
        index.insert(3, b"file", 4, Kind::File);
        index.insert(1, b"other", 4, Kind::File);
        assert_eq!(index.path(3), Some(vec![b"a".to_vec(), b"b".to_vec()]));
        assert!(index.is_within(4, 2) && index.is_within(2, 2) && !index.is_within(2, 3));
        index.rename(2, b"b", 1, b"moved");
        assert_eq!(index.path(3), Some(vec![b"moved".to_vec()]));
        assert!(index.is_empty(2));
        assert!(!index.remove(3, b"file"), "it has another name");
        assert_eq!(index.path(4), Some(vec![b"other".to_vec()]));
        assert!(index.remove(1, b"other"));
        assert_eq!((index.path(4), index.kind(4), index.len()), (None, None, 3));
        let names: Vec<_> = index.list(1, 0, 10).into_iter().map(|named| named.name).collect();
        assert_eq!(names.len(), 2);
        let first = index.list(1, 0, 1).remove(0);
        assert_eq!(index.list(1, first.cookie, 10)[0].name, names[1]);
    }

    #[test]
    fn paths_stay_short() {
        let mut index = Index::new(1);
        let name = [b'x'; 250];
        let (mut at, mut next) = (1, 2);
        while index.check_room(at, &name, None).is_ok() {
            index.insert(at, &name, next, Kind::Dir);
            (at, next) = (next, next + 1);
        }
        assert_eq!(next, 2 + 15);
        index.insert(1, b"top", 100, Kind::Dir);
        index.insert(100, &name, 101, Kind::Dir);
        assert!(index.check_room(16, b"y", Some(100)).is_err(), "with what is in it, it would be too deep");
        assert!(index.check_room(15, b"y", Some(101)).is_ok());
    }
}
