//! Decoded structures in bounded memory.

use std::{hash::Hash, sync::Arc};

use blockdev::Result;
use quick_cache::{Weighter, sync::Cache};

/// Bytes that an entry costs besides itself.
const ENTRY: u64 = 128;

/// What can be kept.
pub trait Weight {
    /// Bytes of memory it takes.
    fn bytes(&self) -> usize;
}

/// Structures by key.
pub struct Kept<K, V>(Cache<K, Arc<V>, ByBytes>);

#[derive(Clone)]
struct ByBytes;

impl<K, V: Weight> Weighter<K, Arc<V>> for ByBytes {
    fn weight(&self, _: &K, value: &Arc<V>) -> u64 {
        value.bytes() as u64 + ENTRY
    }
}

impl<K: Hash + Eq + Clone, V: Weight> Kept<K, V> {
    /// None so far; at most `bytes_max` bytes of them, none of which is above a thirty-second of that.
    pub fn new(bytes_max: u64) -> Self {
        // A shard of the cache is made for at least 32 entries, and keeps nothing that is larger than itself.
        Self(Cache::with_weighter(1024, bytes_max, ByBytes))
    }

    /// The one of `key`, which `make` makes when it is not kept. `make` must not ask for the same key.
    pub fn get(&self, key: &K, make: impl FnOnce() -> Result<V>) -> Result<Arc<V>> {
        self.0.get_or_insert_with(key, || make().map(Arc::new))
    }
}
