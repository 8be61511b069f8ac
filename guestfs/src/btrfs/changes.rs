//! Items that are to be seen instead of those in a tree.

use std::{collections::BTreeMap, sync::Arc};

use blockdev::{Error, ErrorKind, Result};

use super::key::Key;

/// Bounds for what a log can change.
const ITEMS_MAX: usize = 1 << 18;
const BYTES_MAX: usize = 32 << 20;

/// What is instead of an item: other data, or nothing.
pub type Change = Option<Arc<[u8]>>;

/// Changes by key.
#[derive(Default)]
pub struct Changes {
    by_key: BTreeMap<Key, Change>,
    bytes: usize,
}

impl Changes {
    /// Puts `change` in the place of the item `key`.
    ///
    /// # Errors
    ///
    /// `Limit` when there are too many.
    pub fn put(&mut self, key: Key, change: Change) -> Result<()> {
        self.bytes = self.bytes.saturating_add(change.as_ref().map_or(0, |bytes| bytes.len()));
        if self.by_key.len() >= ITEMS_MAX || self.bytes > BYTES_MAX {
            return Err(Error::new(ErrorKind::Limit, "the log of the btrfs changes more than can be held in memory"));
        }
        self.by_key.insert(key, change);
        Ok(())
    }

    /// What is instead of `key`, where it is changed.
    pub fn get(&self, key: &Key) -> Option<&Change> {
        self.by_key.get(key)
    }

    /// The first change from `key` on.
    pub fn from(&self, key: Key) -> Option<(Key, Change)> {
        self.by_key.range(key..).next().map(|(key, change)| (*key, change.clone()))
    }

    /// The last item put up to `key`.
    pub fn before(&self, key: Key) -> Option<(Key, Arc<[u8]>)> {
        self.by_key.range(..=key).rev().find_map(|(key, change)| Some((*key, change.clone()?)))
    }
}
