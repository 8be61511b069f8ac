//! Disks that are being made: written down before they are, so that what a crash leaves is removed.

use std::{fs, os::unix::ffi::OsStrExt, path::Path, path::PathBuf};

use blockdev::Result;
use parking_lot::Mutex;
use rusqlite::{Connection, params};

use crate::{output, state};

/// The list, in the state folder.
pub struct Made {
    folder: PathBuf,
    database: Mutex<Connection>,
}

impl Made {
    /// The list in `folder`. What is on it was left by a crash, and is removed.
    ///
    /// # Errors
    ///
    /// When the list cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let database = state::open(folder, "CREATE TABLE IF NOT EXISTS restores (file BLOB PRIMARY KEY) STRICT;")?;
        let made = Self { folder: folder.to_owned(), database: Mutex::new(database) };
        for path in made.all()? {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    output::note(&format!("cannot remove {}, left of a restore: {e}", path.display()));
                }
                _ => made.forget(&path),
            }
        }
        Ok(made)
    }

    fn all(&self) -> Result<Vec<PathBuf>> {
        let failed = |e| state::failed(&self.folder, e);
        let database = self.database.lock();
        let mut statement = database.prepare("SELECT file FROM restores").map_err(failed)?;
        let paths = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).map_err(failed)?;
        paths.map(|path| Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&path.map_err(failed)?)))).collect()
    }

    /// Writes a file down; it is durable then.
    ///
    /// # Errors
    ///
    /// When it cannot be.
    pub fn add(&self, path: &Path) -> Result<()> {
        let put = self
            .database
            .lock()
            .execute("INSERT OR REPLACE INTO restores VALUES (?1)", params![path.as_os_str().as_bytes()]);
        put.map(drop).map_err(|e| state::failed(&self.folder, e))
    }

    /// Takes one off the list: it is complete, or was removed.
    pub fn forget(&self, path: &Path) {
        let gone =
            self.database.lock().execute("DELETE FROM restores WHERE file = ?1", params![path.as_os_str().as_bytes()]);
        if let Err(e) = gone {
            output::error(&state::failed(&self.folder, e));
        }
    }
}
