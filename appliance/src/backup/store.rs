//! Where chains are written down: a table of the state store, and a folder for each machine's files of digests.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use blockdev::{Error, Result};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use super::record::Chain;
use crate::state;

/// The store, in the daemon's state folder.
pub struct Store {
    folder: PathBuf,
    database: Mutex<Connection>,
}

impl Store {
    /// Opens the store in `folder`, which is there.
    ///
    /// # Errors
    ///
    /// When it cannot be read or made.
    pub fn open(folder: &Path) -> Result<Self> {
        let database = state::open(
            folder,
            "CREATE TABLE IF NOT EXISTS backups (machine TEXT PRIMARY KEY, chain TEXT NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS installation (name TEXT NOT NULL) STRICT;",
        )?;
        Ok(Self { folder: folder.to_owned(), database: Mutex::new(database) })
    }

    /// A word that no other installation has: what is ours in a hypervisor has it in its name.
    pub fn installation(&self) -> Result<String> {
        let database = self.database.lock();
        let known: Option<String> = database
            .query_row("SELECT name FROM installation", [], |row| row.get(0))
            .optional()
            .map_err(|e| state::failed(&self.folder, e))?;
        if let Some(known) = known {
            return Ok(known);
        }
        let name: String = (0..8).map(|_| fastrand::alphanumeric().to_ascii_lowercase()).collect();
        database
            .execute("INSERT INTO installation VALUES (?1)", params![name])
            .map_err(|e| state::failed(&self.folder, e))?;
        Ok(name)
    }

    /// The folder of a machine's files.
    pub fn folder(&self, chain: &Chain) -> PathBuf {
        self.folder.join("backup").join(&chain.hypervisor).join(&chain.machine)
    }

    /// The same, made if it is not there.
    pub fn make_folder(&self, chain: &Chain) -> Result<PathBuf> {
        let folder = self.folder(chain);
        let cannot = |e| Error::io(format!("cannot make {}", folder.display()), e);
        fs::create_dir_all(&folder).map_err(cannot)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(cannot)?;
        Ok(folder)
    }

    /// Writes a chain, new or not; it is durable then.
    pub fn put(&self, chain: &Chain) -> Result<()> {
        let text = serde_json::to_string(chain).map_err(|e| Error::invalid(format!("{}: {e}", chain.key())))?;
        let database = self.database.lock();
        let put = || database.execute("INSERT OR REPLACE INTO backups VALUES (?1, ?2)", params![chain.key(), text]);
        state::with_reserve(&self.folder, || put().map(drop).map_err(|e| state::failed(&self.folder, e)))
    }

    /// Makes sure that it can be written down what is taken back when there is no room for anything else.
    pub fn keep_reserve(&self) {
        state::keep_reserve(&self.folder);
    }

    /// All chains.
    pub fn all(&self) -> Result<Vec<Chain>> {
        let database = self.database.lock();
        let failed = |e| state::failed(&self.folder, e);
        let mut statement = database.prepare("SELECT chain FROM backups ORDER BY machine").map_err(failed)?;
        let texts = statement.query_map([], |row| row.get::<_, String>(0)).map_err(failed)?;
        texts
            .map(|text| {
                serde_json::from_str(&text.map_err(failed)?)
                    .map_err(|e| Error::damaged(format!("a record of backups cannot be read: {e}")))
            })
            .collect()
    }
}
