//! The state store: sessions in an SQLite database, one row each.
//!
//! A row is written and synced before what it tells of is done, and after: a record is never behind by more than the
//! step that was being taken.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use blockdev::{Error, Result};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use super::record::Record;
use crate::state;

/// The store, in a folder with one folder for each session.
pub struct Store {
    folder: PathBuf,
    database: Mutex<Connection>,
}

impl Store {
    /// Opens the store in `folder`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// When the folder or the database cannot be made or read, or is of a newer version.
    pub fn open(folder: &Path) -> Result<Self> {
        let cannot = |e| Error::io(format!("cannot keep sessions in {}", folder.display()), e);
        fs::create_dir_all(folder.join("sessions")).map_err(cannot)?;
        // Records hold catalogs' passwords, and folders what guests write.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(cannot)?;
        let folder = folder.canonicalize().map_err(cannot)?;
        let database = state::open(
            &folder,
            "CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS numbers (machine TEXT PRIMARY KEY, last INTEGER NOT NULL) STRICT;",
        )?;
        Ok(Self { folder, database: Mutex::new(database) })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of a session's overlays and sockets.
    pub fn session_folder(&self, id: &str) -> PathBuf {
        self.folder.join("sessions").join(id)
    }

    /// The folder of a session's machine.
    pub fn machine_folder(&self, id: &str) -> PathBuf {
        self.folder.join("machines").join(id)
    }

    /// A name for a session of `machine` that no other ever had.
    pub fn new_id(&self, machine: &str) -> Result<String> {
        let database = self.database.lock();
        let number: i64 = database
            .query_row(
                "INSERT INTO numbers VALUES (?1, 1) ON CONFLICT DO UPDATE SET last = last + 1 RETURNING last",
                params![machine],
                |row| row.get(0),
            )
            .map_err(|e| self.failed(e))?;
        Ok(format!("{machine}-{number}"))
    }

    /// Writes a record, new or not; it is durable then.
    pub fn put(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_string(record).map_err(|e| Error::invalid(format!("{}: {e}", record.id)))?;
        let database = self.database.lock();
        let put = database.execute("INSERT OR REPLACE INTO sessions VALUES (?1, ?2)", params![record.id, text]);
        put.map(drop).map_err(|e| self.failed(e))
    }

    pub fn get(&self, id: &str) -> Result<Record> {
        let database = self.database.lock();
        let text: Option<String> = database
            .query_row("SELECT record FROM sessions WHERE id = ?1", params![id], |row| row.get(0))
            .optional()
            .map_err(|e| self.failed(e))?;
        let text = text.ok_or_else(|| {
            Error::not_found(format!("there is no session {id}; `revenant recover list` shows those that there are"))
        })?;
        parse(&text)
    }

    /// All sessions, by name.
    pub fn all(&self) -> Result<Vec<Record>> {
        let database = self.database.lock();
        let mut statement = database.prepare("SELECT record FROM sessions ORDER BY id").map_err(|e| self.failed(e))?;
        let texts = statement.query_map([], |row| row.get::<_, String>(0)).map_err(|e| self.failed(e))?;
        texts.map(|text| parse(&text.map_err(|e| self.failed(e))?)).collect()
    }

    pub fn delete(&self, id: &str) -> Result<()> {
        let database = self.database.lock();
        database.execute("DELETE FROM sessions WHERE id = ?1", params![id]).map(drop).map_err(|e| self.failed(e))
    }

    fn failed(&self, e: rusqlite::Error) -> Error {
        state::failed(&self.folder, e)
    }
}

fn parse(text: &str) -> Result<Record> {
    serde_json::from_str(text).map_err(|e| Error::damaged(format!("a record of a session cannot be read: {e}")))
}
