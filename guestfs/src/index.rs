//! Where in a directory a name is, for families that have nothing to look it up with.
//!
//! FAT and exFAT have no order in their directories: who looks for a name reads them from the front. (ReFS has one, by
//! rules of case that nobody has written down.) Here the first look into a directory reads it whole and keeps a hash of
//! each name and where its entry is, sixteen bytes a name; every further one costs one hash and the reading of one entry.

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
const NAMES_MAX: usize = 1 << 19;

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
    /// Where it is in its directory, as the family counts.
    pub first: u64,
    /// Where what comes after it is: its cookie.
    pub next: u64,
}

impl From<Named> for DirEntry {
    fn from(named: Named) -> Self {
        Self { name: named.name, id: named.file, kind: named.kind, cookie: named.next }
    }
}

/// What is called for each entry of a directory.
pub type Sink<'a> = dyn FnMut(Named) -> ControlFlow<()> + 'a;

/// Names of directories, by their hashes.
pub struct Names {
    kept: Cache<FileId, Arc<Index>, ByBytes>,
    hasher: RandomState,
}

/// Hashes and places of a directory's names in the order of the hashes; `None` when there are too many.
type Index = Option<Vec<(u32, u64)>>;

#[derive(Clone)]
struct ByBytes;

impl Weighter<FileId, Arc<Index>> for ByBytes {
    fn weight(&self, _: &FileId, index: &Arc<Index>) -> u64 {
        index.as_ref().as_ref().map_or(0, |index| index.capacity() as u64 * 16) + 96
    }
}

impl Names {
    /// None so far.
    pub fn new() -> Self {
        Self { kept: Cache::with_weighter(EXPECTED, KEPT_MAX, ByBytes), hasher: RandomState::new() }
    }

    /// The entry `name` of the directory `dir`. `list` gives the entries of it from a place on.
    ///
    /// # Errors
    ///
    /// What `list` says before the name is found.
    pub fn lookup(
        &self,
        dir: FileId,
        name: &[u8],
        list: &dyn Fn(u64, &mut Sink<'_>) -> Result<()>,
    ) -> Result<Option<FileId>> {
        let wanted = self.hash(name);
        let mut found = None;
        let index = self.kept.get_or_insert_with(&dir, || {
            let mut index = Some(Vec::new());
            list(0, &mut |named| {
                if found.is_none() && named.name == name {
                    found = Some(named.file);
                }
                match &mut index {
                    Some(places) if places.len() < NAMES_MAX => places.push((self.hash(&named.name), named.first)),
                    _ => index = None,
                }
                ControlFlow::Continue(())
            })?;
            if let Some(places) = &mut index {
                places.sort_unstable();
                places.shrink_to_fit();
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
        for (_, place) in index.iter().skip(start).take_while(|(hash, _)| *hash == wanted) {
            if let Some(found) = self.first(*place, name, 1, list)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The entry `name` among the first `count` from `from` on.
    fn first(
        &self,
        from: u64,
        name: &[u8],
        mut count: usize,
        list: &dyn Fn(u64, &mut Sink<'_>) -> Result<()>,
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
