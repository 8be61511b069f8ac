//! Where in a directory a name is.
//!
//! FAT and exFAT have no order in their directories, and nothing that leads to a name: who looks for one reads them from
//! the front. Here the first look into a directory reads it whole and keeps a hash of each name and its slot, eight bytes
//! a name; every further one costs one hash and the reading of one entry. (The hash that exFAT stores with each name is
//! of the name in upper case by a table of the volume: it would find no more and is wrong where a writer was.)

use std::{
    hash::{BuildHasher, RandomState},
    ops::ControlFlow,
    sync::Arc,
};

use blockdev::Result;
use quick_cache::{Weighter, sync::Cache};

use crate::{DirEntry, FileId, Kind};

/// Bound of what is kept, in bytes.
const KEPT_MAX: u64 = 16 << 20;

/// Names of a directory of which that is kept; of a larger one each lookup reads from the front.
const NAMES_MAX: usize = 1 << 20;

/// Directories that the cache is made for: so few that it has one part only, in which the largest has room.
const EXPECTED: usize = 32;

/// An entry of a directory.
#[derive(Debug)]
pub struct Named {
    /// Its name.
    pub name: Vec<u8>,
    /// The file.
    pub file: FileId,
    /// Its type.
    pub kind: Kind,
    /// Its first slot.
    pub first: u32,
    /// The slot behind it.
    pub next: u32,
}

impl From<Named> for DirEntry {
    fn from(named: Named) -> Self {
        Self { name: named.name, id: named.file, kind: named.kind, cookie: named.next.into() }
    }
}

/// What is called for each entry of a directory.
pub type Sink<'a> = dyn FnMut(Named) -> ControlFlow<()> + 'a;

/// Names of directories, by their hashes.
pub struct Names {
    kept: Cache<u64, Arc<Index>, ByBytes>,
    hasher: RandomState,
}

/// Hashes and slots of a directory's names in the order of the hashes; `None` when there are too many.
type Index = Option<Vec<(u32, u32)>>;

#[derive(Clone)]
struct ByBytes;

impl Weighter<u64, Arc<Index>> for ByBytes {
    fn weight(&self, _: &u64, index: &Arc<Index>) -> u64 {
        index.as_ref().as_ref().map_or(0, |index| index.capacity() as u64 * 8) + 96
    }
}

impl Names {
    /// None so far.
    pub fn new() -> Self {
        Self { kept: Cache::with_weighter(EXPECTED, KEPT_MAX, ByBytes), hasher: RandomState::new() }
    }

    /// The entry `name` of the directory `dir`. `list` gives the entries of it from a slot on.
    ///
    /// # Errors
    ///
    /// What `list` says before the name is found.
    pub fn lookup(
        &self,
        dir: FileId,
        name: &[u8],
        list: &dyn Fn(u32, &mut Sink<'_>) -> Result<()>,
    ) -> Result<Option<FileId>> {
        let wanted = self.hash(name);
        let mut found = None;
        let index = self.kept.get_or_insert_with(&dir.number, || {
            let mut index = Some(Vec::new());
            list(0, &mut |named| {
                if found.is_none() && named.name == name {
                    found = Some(named.file);
                }
                match &mut index {
                    Some(slots) if slots.len() < NAMES_MAX => slots.push((self.hash(&named.name), named.first)),
                    _ => index = None,
                }
                ControlFlow::Continue(())
            })?;
            if let Some(slots) = &mut index {
                slots.sort_unstable();
                slots.shrink_to_fit();
            }
            Ok(Arc::new(index))
        });
        // What was found before the damaged place is true.
        let index = match (index, found) {
            (_, Some(found)) => return Ok(Some(found)),
            (index, None) => index?,
        };
        let Some(index) = index.as_ref() else { return self.first(0, name, usize::MAX, list) };
        let start = index.partition_point(|(hash, _)| *hash < wanted);
        for (_, slot) in index.iter().skip(start).take_while(|(hash, _)| *hash == wanted) {
            if let Some(found) = self.first(*slot, name, 1, list)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The entry `name` among the first `count` from slot `from` on.
    fn first(
        &self,
        from: u32,
        name: &[u8],
        mut count: usize,
        list: &dyn Fn(u32, &mut Sink<'_>) -> Result<()>,
    ) -> Result<Option<FileId>> {
        let mut found = None;
        let listed = list(from, &mut |named| {
            count -= 1;
            if named.name == name {
                found = Some(named.file);
            }
            if found.is_some() || count == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match found {
            Some(found) => Ok(Some(found)),
            None => listed.map(|()| None),
        }
    }

    /// Seeded anew for each volume: nobody can make a directory whose names all have one hash.
    fn hash(&self, name: &[u8]) -> u32 {
        self.hasher.hash_one(name) as u32
    }
}
