//! The database in the state folder, in which the daemon's stores have their tables.

use std::{path::Path, time::Duration};

use blockdev::{Error, ErrorKind, Result};
use rusqlite::Connection;

/// Its file.
const FILE: &str = "state.sqlite";
/// Written as the database's `user_version`.
const VERSION: i64 = 1;
/// How long one store may wait for another.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens the database in `folder`, which is there, with `tables` made if they are not. What is written is durable.
///
/// # Errors
///
/// When it cannot be made or read, or is of a newer version.
pub fn open(folder: &Path, tables: &str) -> Result<Connection> {
    let failed = |e| failed(folder, e);
    let database = Connection::open(folder.join(FILE)).map_err(failed)?;
    database.busy_timeout(PATIENCE).map_err(failed)?;
    database.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    database.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    let version: i64 = database.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if version > VERSION {
        return Err(Error::unsupported(format!(
            "{} was written by a newer revenant (version {version}); use that one",
            folder.join(FILE).display()
        )));
    }
    database.execute_batch(tables).map_err(failed)?;
    database.pragma_update(None, "user_version", VERSION).map_err(failed)?;
    Ok(database)
}

/// What a failure of the database in `folder` means.
pub fn failed(folder: &Path, e: rusqlite::Error) -> Error {
    let kind = match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => ErrorKind::NoSpace,
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => ErrorKind::Damaged,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("the state store {}", folder.join(FILE).display())).with_source(e)
}
