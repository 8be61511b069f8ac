//! Catalogs in an SQLite file, which may be in use by a Director, or lie in a folder that cannot be written.

use std::{
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use blockdev::{Error, ErrorKind, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, config::DbConfig, types};

use super::{
    query::{EachRow, Engine, Failure, Param},
    row::{Kind, Row},
};

/// How long a writing Director is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// A database file.
pub struct Sqlite {
    /// The file.
    pub path: PathBuf,
}

/// An open database file.
pub struct Opened {
    connection: Connection,
    /// Device and inode: a file that was replaced is opened anew.
    identity: (u64, u64),
}

impl Engine for Sqlite {
    type Connection = Opened;

    fn connect(&self, shown: &str) -> Result<Opened> {
        let identity = identity(&self.path)
            .map_err(|e| Error::io(format!("catalog {shown}: cannot open the file; check its name"), e))?;
        let connection = match open(self.path.as_os_str().as_bytes(), false) {
            Err(error) if needs_to_write(&error) => {
                if let Some(left) = leftover(&self.path) {
                    let message = format!(
                        "catalog {shown}: {} holds changes that only a writable folder lets SQLite merge; copy both \
                         files to one and name the copy",
                        left.display()
                    );
                    return Err(Error::new(ErrorKind::Locked, message).with_source(error));
                }
                open(self.path.as_os_str().as_bytes(), true)
            }
            other => other,
        };
        let connection = connection.map_err(|error| {
            let (kind, remedy) = match error.sqlite_error_code() {
                Some(ErrorCode::NotADatabase) => (ErrorKind::Unsupported, "it is no SQLite database"),
                Some(ErrorCode::DatabaseCorrupt) => (ErrorKind::Damaged, "the database is damaged"),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    (ErrorKind::Io, "another program keeps it locked; try again when it has ended")
                }
                _ => (ErrorKind::Locked, "cannot open the file; check the rights to read it and its folder"),
            };
            Error::new(kind, format!("catalog {shown}: {remedy}")).with_source(error)
        })?;
        Ok(Opened { connection, identity })
    }

    fn is_current(&self, opened: &Opened) -> bool {
        identity(&self.path).is_ok_and(|now| now == opened.identity)
    }

    fn query(
        &self,
        opened: &mut Opened,
        sql: &str,
        params: &[Param<'_>],
        each: &mut EachRow<'_>,
    ) -> std::result::Result<(), Failure> {
        let mut statement = opened.connection.prepare_cached(sql)?;
        let mut rows = statement.query(rusqlite::params_from_iter(params))?;
        while let Some(row) = rows.next()? {
            each(row)?;
        }
        Ok(())
    }

    fn placeholder(&self, number: usize, kind: Kind) -> String {
        match kind {
            // Names are stored as text, also when they are not UTF-8; a blob is never equal to a text.
            Kind::Bytes => format!("CAST(?{number} AS TEXT)"),
            Kind::Int | Kind::Time => format!("?{number}"),
        }
    }
}

impl Row for rusqlite::Row<'_> {
    fn int(&self, column: usize) -> Option<i64> {
        self.get_ref(column).ok()?.as_i64().ok()
    }

    fn bytes(&self, column: usize) -> Option<&[u8]> {
        self.get_ref(column).ok()?.as_bytes().ok()
    }
}

impl ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<types::ToSqlOutput<'_>> {
        Ok(types::ToSqlOutput::Borrowed(match self {
            Self::Int(number) => types::ValueRef::Integer(*number),
            Self::Name(bytes) => types::ValueRef::Blob(bytes),
        }))
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            // Not the database is at fault, but its medium or its users.
            Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Failed(Error::new(ErrorKind::Io, "cannot read the file; try again").with_source(error))
            }
            Some(ErrorCode::DatabaseCorrupt) => {
                Self::Failed(Error::damaged("the database is damaged; restore it from a backup").with_source(error))
            }
            _ => Self::Refused(error.into()),
        }
    }
}

/// Open `path` read only, and read from it. `immutable` promises SQLite that nobody writes, and it locks nothing.
fn open(path: &[u8], immutable: bool) -> rusqlite::Result<Connection> {
    // As a URI, in which only few characters stand for themselves.
    let mut uri = b"file:".to_vec();
    for &byte in path {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(byte),
            _ => uri.extend_from_slice(format!("%{byte:02x}").as_bytes()),
        }
    }
    uri.extend_from_slice(if immutable { b"?immutable=1" } else { b"?mode=ro" });
    let uri = String::from_utf8_lossy(&uri);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&*uri, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // The file comes from anywhere: its schema must not run anything.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.query_row("SELECT COUNT(*) FROM sqlite_master", [], |_| Ok(()))?;
    Ok(connection)
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    path.metadata().map(|m| (m.dev(), m.ino()))
}

/// Whether SQLite had to write something beside the file, and could not.
fn needs_to_write(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

/// A file of changes beside the database that are not in it yet.
fn leftover(path: &Path) -> Option<PathBuf> {
    ["-wal", "-journal"].into_iter().find_map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let file = PathBuf::from(name);
        file.metadata().is_ok_and(|m| m.len() > 0).then_some(file)
    })
}
