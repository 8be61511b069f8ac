//! Looking a name up in a directory without a usable hash tree: all entries have to be looked at.
//!
//! Whoever looks up every name of a large directory would look at each entry for each of them. So the first scan of one
//! keeps a hash and the place of each entry, in bounded memory for all directories together.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::ControlFlow,
    sync::Arc,
};

use blockdev::Result;
use quick_cache::{Weighter, sync::Cache};

use super::directory::Directory;

/// Blocks of a directory from which on a scan is kept.
const KEPT_FROM: u64 = 4;
/// Entries of a directory whose scan is kept: that of a larger one is not.
const ENTRIES_MAX: usize = 1 << 19;
/// Bytes that are kept, room for one of the largest.
const KEPT_MAX: u64 = 12 << 20;
/// Directories that are expected: so few that the cache does not split its room.
const EXPECTED: usize = 32;

/// Scans of directories.
pub struct Scans {
    kept: Cache<u32, Arc<[Place]>, ByBytes>,
}

/// The hash of a name, and where its entry is, in units of four bytes: directories of entries have at most 2^34 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    hash: u32,
    at: u32,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<u32, Arc<[Place]>> for ByBytes {
    fn weight(&self, _: &u32, places: &Arc<[Place]>) -> u64 {
        size_of_val::<[Place]>(places) as u64 + 96
    }
}

impl Scans {
    /// None so far.
    pub fn new() -> Self {
        Self { kept: Cache::with_weighter(EXPECTED, KEPT_MAX, ByBytes) }
    }

    /// The inode of the entry called `name` of `directory`.
    ///
    /// # Errors
    ///
    /// When a block on the way is damaged.
    pub fn find(&self, directory: &Directory, name: &[u8]) -> Result<Option<u32>> {
        if directory.size() < KEPT_FROM * directory.volume().block_size() {
            return search(directory, 0, name);
        }
        let number = directory.inode().number;
        let kept = match self.kept.get(&number) {
            Some(kept) => kept,
            None => {
                // What cannot be scanned to its end may still have the name before.
                let Ok(Some(places)) = scan(directory) else { return search(directory, 0, name) };
                self.kept.insert(number, Arc::clone(&places));
                places
            }
        };
        let wanted = hash(name);
        let first = kept.partition_point(|place| place.hash < wanted);
        for place in kept.iter().skip(first).take_while(|place| place.hash == wanted) {
            let mut found = None;
            directory.walk(u64::from(place.at) * 4, |entry| {
                found = (directory.name(entry).as_ref() == name).then_some(entry.inode);
                ControlFlow::Break(())
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// The inode of the first entry called `name` of `directory` from `position` on.
fn search(directory: &Directory, position: u64, name: &[u8]) -> Result<Option<u32>> {
    let mut found = None;
    directory.walk(position, |entry| {
        if directory.name(entry).as_ref() != name {
            return ControlFlow::Continue(());
        }
        found = Some(entry.inode);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Where each name is, ordered by hash; none when there are too many.
fn scan(directory: &Directory) -> Result<Option<Arc<[Place]>>> {
    let mut places = Vec::new();
    let mut fits = true;
    directory.walk(0, |entry| {
        let at = u32::try_from(entry.at / 4);
        fits = at.is_ok() && places.len() < ENTRIES_MAX;
        match at {
            Ok(at) if fits => places.push(Place { hash: hash(&directory.name(entry)), at }),
            _ => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    })?;
    places.sort_unstable();
    Ok(fits.then(|| places.into()))
}

fn hash(name: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() as u32
}
