//! Registry hives of Windows (`regf`), read only: what a guest says about itself.
//!
//! The format is documented by Maxim Suhanov, "Windows registry file format specification". A hive is a header, then
//! bins full of cells; a cell is a key (`nk`), a value (`vk`), a list of either, or data. All offsets count from the
//! first bin.
//!
//! * `header`: the base block;
//! * `log`: changes that Windows had written to its logs only, put over the hive in memory;
//! * `cells`: the bytes of a cell, checked;
//! * `key`: keys and the lists of their subkeys;
//! * `value`: values and their data.
//!
//! A hive is as hostile as any other file of a guest: nothing is loaded by a size that it claims, and every walk is
//! bounded.

mod cells;
mod header;
mod key;
mod log;
mod value;

use std::sync::Arc;

use blockdev::{BlockDevice, Result};

use self::cells::Cells;
pub use self::{key::Key, value::Value};

/// A hive.
pub struct Hive {
    cells: Cells,
    root: u32,
    notes: Vec<String>,
}

impl Hive {
    /// The hive in `file`, with what its transaction logs `logs` (`.LOG1`, `.LOG2`, or `.LOG`) have to add.
    ///
    /// # Errors
    ///
    /// When it is no hive, or cannot be read. What is wrong with a log is a note.
    pub fn open(file: Arc<dyn BlockDevice>, logs: &[Arc<dyn BlockDevice>]) -> Result<Self> {
        let log::Replayed { device, header, notes } = log::replay(file, logs)?;
        Ok(Self { cells: Cells::new(device, &header), root: header.root, notes })
    }

    /// What an operator should know: a log that was replayed, or could not be.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The topmost key.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn root(&self) -> Result<Key<'_>> {
        Key::at(&self.cells, self.root)
    }

    /// The key at `path`, whose names are separated by backslashes; case does not matter.
    ///
    /// # Errors
    ///
    /// When a key on the way cannot be read; a key that is not there is `Ok(None)`.
    pub fn key(&self, path: &str) -> Result<Option<Key<'_>>> {
        let mut key = self.root()?;
        for name in path.split('\\').filter(|name| !name.is_empty()) {
            match key.subkey(name)? {
                Some(subkey) => key = subkey,
                None => return Ok(None),
            }
        }
        Ok(Some(key))
    }

    /// The value `name` of the key at `path`.
    ///
    /// # Errors
    ///
    /// When a key on the way or the value cannot be read; one that is not there is `Ok(None)`.
    pub fn value(&self, path: &str, name: &str) -> Result<Option<Value>> {
        match self.key(path)? {
            Some(key) => key.value(name),
            None => Ok(None),
        }
    }
}

/// Text of a key or value: one byte a character (Latin-1) where the flag says so, else UTF-16.
fn name(bytes: &[u8], is_latin1: bool) -> String {
    if is_latin1 {
        return bytes.iter().map(|b| char::from(*b)).collect();
    }
    String::from_utf16_lossy(&units(bytes).collect::<Vec<_>>())
}

fn units(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair))
}
