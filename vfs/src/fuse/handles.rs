//! Open files by the numbers that the kernel has for them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use blockdev::ReadAt;
use parking_lot::RwLock;

use crate::node::OpenFile;

/// What is open.
#[derive(Clone)]
pub(super) enum Content {
    /// A file that never changes.
    Fixed(Arc<dyn ReadAt>),
    /// One that can be changed.
    Writable(OpenFile),
}

/// Open files.
#[derive(Default)]
pub(super) struct Handles {
    table: RwLock<HashMap<u64, Content>>,
    last: AtomicU64,
}

impl Handles {
    pub(super) fn add(&self, content: Content) -> u64 {
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.table.write().insert(handle, content);
        handle
    }

    pub(super) fn get(&self, handle: u64) -> Option<Content> {
        self.table.read().get(&handle).cloned()
    }

    pub(super) fn remove(&self, handle: u64) {
        let gone = self.table.write().remove(&handle);
        // Closing may take long; the table is free again by now.
        drop(gone);
    }
}
