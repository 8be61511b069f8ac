//! What is served: disks by name.

use std::{collections::BTreeMap, fmt, sync::Arc};

use blockdev::{Error, ErrorKind, Result};
use parking_lot::RwLock;

use super::protocol::{MAX_STRING, transmission};
pub use crate::disk::Disk;

/// A run of bytes that were all changed, or all not, since some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedRun {
    /// Length in bytes, at least 1.
    pub len: u64,
    /// Whether they were changed.
    pub changed: bool,
}

/// Which blocks of a disk were changed since some moment (a backup, a snapshot).
pub trait ChangedBlocks: Send + Sync {
    /// The run that holds `offset`, from `offset` on. It may be shorter than the changes are, and longer than the disk.
    ///
    /// # Errors
    ///
    /// When it cannot be told; a client then has to take all blocks for changed.
    fn run_at(&self, offset: u64) -> Result<ChangedRun>;
}

/// A disk under a name.
#[derive(Clone)]
pub struct Export {
    /// What clients ask for: UTF-8 of at most 4096 bytes. The empty name is the default export.
    pub name: String,
    /// One line for people; may be empty.
    pub description: String,
    /// The disk.
    pub disk: Disk,
    /// Its changed blocks, each under a name that becomes the metadata context `qemu:dirty-bitmap:NAME`. The first one
    /// is also `x-revenant:changed`.
    pub changed: Vec<(String, Arc<dyn ChangedBlocks>)>,
}

impl Export {
    /// A disk under a name, without description and without changed blocks.
    pub fn new(name: impl Into<String>, disk: Disk) -> Self {
        Self { name: name.into(), description: String::new(), disk, changed: Vec::new() }
    }

    /// The transmission flags; `structured` when replies are structured or extended.
    pub(super) fn flags(&self, structured: bool) -> u16 {
        // A read-only disk takes flushes, too: clients send them whatever they are told, and take a refusal for a
        // broken disk. All connections share one device, so a flush covers them all.
        let mut flags = transmission::HAS_FLAGS
            | transmission::SEND_FLUSH
            | transmission::SEND_FUA
            | transmission::SEND_CACHE
            | transmission::CAN_MULTI_CONN;
        flags |= match self.disk {
            Disk::ReadOnly(_) => transmission::READ_ONLY,
            Disk::Writable(_) => {
                transmission::SEND_TRIM | transmission::SEND_WRITE_ZEROES | transmission::SEND_FAST_ZERO
            }
        };
        if structured { flags | transmission::SEND_DF } else { flags }
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed: Vec<_> = self.changed.iter().map(|(name, _)| name).collect();
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("description", &self.description)
            .field("disk", &self.disk)
            .field("changed", &changed)
            .finish()
    }
}

/// The exports of a server. They may come and go while it runs; a connection keeps the one that it has chosen.
#[derive(Debug, Default)]
pub struct Exports {
    by_name: RwLock<BTreeMap<String, Arc<Export>>>,
}

impl Exports {
    /// No exports yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Add an export.
    ///
    /// # Errors
    ///
    /// When its name is taken, or a name or the description is longer than the protocol can carry.
    pub fn insert(&self, export: Export) -> Result<()> {
        let long =
            |what: &str| Err(Error::invalid(format!("{what} of an NBD export is longer than {MAX_STRING} bytes")));
        if export.name.len() > MAX_STRING {
            return long("the name");
        }
        if export.description.len() > MAX_STRING {
            return long("the description");
        }
        // "qemu:dirty-bitmap:" is part of the string.
        if export.changed.iter().any(|(name, _)| name.len() > MAX_STRING - 64) {
            return long("the name of changed blocks");
        }
        let mut by_name = self.by_name.write();
        if by_name.contains_key(&export.name) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("there is an NBD export named {:?} already; choose another name", export.name),
            ));
        }
        by_name.insert(export.name.clone(), Arc::new(export));
        Ok(())
    }

    /// Take an export away; connections that use it go on. `None` when there is none of that name.
    pub fn remove(&self, name: &str) -> Option<Arc<Export>> {
        self.by_name.write().remove(name)
    }

    /// The export of that name. The empty name is the only export, when there is only one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Export>> {
        let by_name = self.by_name.read();
        if let Some(export) = by_name.get(name) {
            return Some(export.clone());
        }
        match by_name.values().next() {
            Some(only) if name.is_empty() && by_name.len() == 1 => Some(only.clone()),
            _ => None,
        }
    }

    /// All exports, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Export>> {
        self.by_name.read().values().cloned().collect()
    }
}
