//! The database in the state folder, in which the daemon's stores have their tables.

use std::{fs, path::Path, time::Duration};

use blockdev::{Error, ErrorKind, Result};
use rusqlite::Connection;

/// Its file.
const FILE: &str = "state.sqlite";
/// Written as the database's `user_version`.
const VERSION: i64 = 1;
/// How long one store may wait for another.
const PATIENCE: Duration = Duration::from_secs(30);
/// A file that is only there to be removed: so that on a full disk it can still be written down what is to be removed from it.
const RESERVE: &str = "reserve";
/// Its size in bytes: the database's log before it is taken over, and some.
const RESERVED: u64 = 2 << 20;

/// Opens the database in `folder`, which is there, with `tables` made if they are not. What is written is durable.
///
/// # Errors
///
/// When it cannot be made or read, or is of a newer version.
pub fn open(folder: &Path, tables: &str) -> Result<Connection> {
    with_reserve(folder, || open_once(folder, tables))
}

/// Does `work`; once more, without the reserve, when there is no room for it.
///
/// # Errors
///
/// Those of `work`.
pub fn with_reserve<T>(folder: &Path, work: impl Fn() -> Result<T>) -> Result<T> {
    match work() {
        Err(e) if e.kind() == ErrorKind::NoSpace && fs::remove_file(folder.join(RESERVE)).is_ok() => work(),
        done => done,
    }
}

/// Makes the reserve if it is not there; where there is no room for it there is none.
pub fn keep_reserve(folder: &Path) {
    let path = folder.join(RESERVE);
    let Ok(file) = fs::File::create_new(&path) else { return };
    if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVED).is_err() {
        let _ = fs::remove_file(&path);
    }
}

fn open_once(folder: &Path, tables: &str) -> Result<Connection> {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_reserve_is_for_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let tried = Cell::new(0);
        let fails = |kind| {
            tried.set(0);
            with_reserve(folder.path(), || {
                tried.set(tried.get() + 1);
                if folder.path().join(RESERVE).exists() { Err(Error::new(kind, "no")) } else { Ok(()) }
            })
        };
        keep_reserve(folder.path());
        assert_eq!(fs::metadata(folder.path().join(RESERVE)).expect("the reserve").len(), RESERVED);
        assert!(fails(ErrorKind::Damaged).is_err() && tried.get() == 1);
        assert!(fails(ErrorKind::NoSpace).is_ok() && tried.get() == 2);
        assert!(fails(ErrorKind::NoSpace).is_ok() && tried.get() == 1, "there is none any more");
        keep_reserve(folder.path());
        keep_reserve(folder.path());
        assert!(folder.path().join(RESERVE).exists());
    }
}
