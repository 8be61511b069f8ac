//! A guest's filesystem that is opened when it is first looked into.

use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{Error, Result, images::Units};
use guestfs::{FileSystem, Found};

use crate::{node::Time, providers::ino};

/// A filesystem that was found on volumes of a machine, seen in one place of the tree.
pub struct Mount {
    shared: Arc<Shared>,
    /// Stands for this filesystem in this backup in this place, and for no other.
    key: Vec<u8>,
    ino: u64,
}

/// What all places share in which it is seen.
struct Shared {
    found: Found,
    /// For messages: the volume it lies on.
    place: String,
    time: Time,
    /// Whoever comes first opens it; the others wait. A failure is not kept.
    opened: Mutex<Option<Arc<dyn FileSystem>>>,
    units: Arc<Units>,
}

impl Mount {
    /// `found`, which lies at `place`; `key` stands for it.
    pub fn new(found: Found, place: String, key: Vec<u8>, time: Time) -> Arc<Self> {
        let shared = Shared { found, place, time, opened: Mutex::new(None), units: Arc::default() };
        let ino = ino(&[b"volume", &key]);
        Arc::new(Self { shared: Arc::new(shared), key, ino })
    }

    /// The same filesystem, seen at `path` too: its files have other numbers there.
    pub fn seen_at(&self, path: &[u8]) -> Arc<Self> {
        let key = [&self.key[..], b"\0", path].concat();
        let ino = ino(&[b"volume", &key]);
        Arc::new(Self { shared: Arc::clone(&self.shared), key, ino })
    }

    /// The filesystem.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn filesystem(&self) -> Result<Arc<dyn FileSystem>> {
        let mut opened = self.shared.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fs) = &*opened {
            return Ok(Arc::clone(fs));
        }
        let fs = self.shared.found.open().map_err(|e| self.named(e))?;
        *opened = Some(Arc::clone(&fs));
        Ok(fs)
    }

    /// An error in it, with the volume it lies on.
    pub fn named(&self, error: Error) -> Error {
        error.context(format_args!("{} ({})", self.shared.place, self.shared.found.kind))
    }

    /// Where unpacked pieces of its files are kept.
    pub fn units(&self) -> &Arc<Units> {
        &self.shared.units
    }

    /// Stands for it in this place, and for no other.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The number of its topmost folder, and the time of that folder while it is not opened.
    pub fn place(&self) -> (u64, Time) {
        (self.ino, self.shared.time)
    }
}
