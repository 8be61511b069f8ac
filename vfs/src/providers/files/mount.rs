//! A guest's filesystem that is opened when it is first looked into.

use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{Error, Result, images::Units};
use guestfs::{FileSystem, Found};

use crate::node::Time;

/// A filesystem that was found on volumes of a machine.
pub struct Mount {
    found: Found,
    /// For messages: the volume it lies on.
    place: String,
    /// Stands for this filesystem in this backup, and for no other.
    key: Vec<u8>,
    ino: u64,
    time: Time,
    /// Whoever comes first opens it; the others wait. A failure is not kept.
    opened: Mutex<Option<Arc<dyn FileSystem>>>,
    units: Arc<Units>,
}

impl Mount {
    /// `found`, which lies at `place` and whose folder has the number `ino`.
    pub fn new(found: Found, place: String, key: Vec<u8>, ino: u64, time: Time) -> Arc<Self> {
        Arc::new(Self { found, place, key, ino, time, opened: Mutex::new(None), units: Arc::default() })
    }

    /// The filesystem.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn filesystem(&self) -> Result<Arc<dyn FileSystem>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fs) = &*opened {
            return Ok(Arc::clone(fs));
        }
        let fs = self.found.open().map_err(|e| self.named(e))?;
        *opened = Some(Arc::clone(&fs));
        Ok(fs)
    }

    /// An error in it, with the volume it lies on.
    pub fn named(&self, error: Error) -> Error {
        error.context(format_args!("{} ({})", self.place, self.found.kind))
    }

    /// Where unpacked pieces of its files are kept.
    pub fn units(&self) -> &Arc<Units> {
        &self.units
    }

    /// Stands for it, and for no other.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The number of its topmost folder, and the time of that folder while it is not opened.
    pub fn place(&self) -> (u64, Time) {
        (self.ino, self.time)
    }
}
