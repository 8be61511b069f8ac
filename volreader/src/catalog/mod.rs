//! A Bacula catalog, read only: which jobs ran, where on which volume their blocks are, which files they hold.
//!
//! SQLite, PostgreSQL and MySQL/MariaDB catalogs of Bacula 9.6 (schema version 16) to 15 (1026) are read, by one
//! set of queries (`query`) that differs between the engines only in how a column is asked for. An engine
//! (`sqlite`, `postgres`, `mysql`) knows how to connect without being able to write, and how to hand out rows
//! one by one. Names are the bytes that the file daemon sent; no engine decodes them on the way.
//!
//! Calls block; they must not be made on a thread that drives an asynchronous runtime.

mod location;
mod mysql;
mod postgres;
mod query;
mod row;
mod sqlite;

use std::{collections::HashMap, sync::Arc};

use blockdev::Result;

use location::Location;
use query::Sql;

/// A job that may have data in volumes: a backup, a copy, or a job that was migrated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogJob {
    /// JobId.
    pub job_id: u32,
    /// Unique name: `name.YYYY-MM-DD_HH.MM.SS_NN`.
    pub unique_name: String,
    /// Name of the Job resource.
    pub name: String,
    /// Name of the client; empty when its row is gone.
    pub client: String,
    /// Name of the FileSet; empty when its row is gone.
    pub fileset: String,
    /// Name of the pool; empty when its row is gone.
    pub pool: String,
    /// Type, one ASCII character: `B`, `C` (copy) or `M` (migrated).
    pub kind: u8,
    /// Level, one ASCII character: `F`, `D`, `I`, ...
    pub level: u8,
    /// JobStatus, one ASCII character: `T`, `W`, `A`, ...
    pub status: u8,
    /// When it was to start, `YYYY-MM-DD HH:MM:SS` in the Director's time.
    pub sched_time: Option<String>,
    /// When it started, in the same form.
    pub start_time: Option<String>,
    /// When it ended, in the same form.
    pub end_time: Option<String>,
    /// When it started, in seconds since 1970.
    pub job_tdate: i64,
    /// VolSessionId; 0 for a job that wrote nothing.
    pub session_id: u32,
    /// VolSessionTime, in seconds since 1970; 0 for a job that wrote nothing.
    pub session_time: u32,
    /// Files that were stored.
    pub files: u64,
    /// Bytes that were stored.
    pub bytes: u64,
    /// The job that this one copied or migrated; 0 for none.
    pub prior_job_id: u32,
    /// Whether its File rows were pruned.
    pub purged_files: bool,
    /// Whether it builds on a Base job.
    pub has_base: bool,
}

/// Where blocks of a job are in one volume (a JobMedia row). Ranges of different jobs may overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaRange {
    /// Name of the volume.
    pub volume: String,
    /// Its media type.
    pub media_type: String,
    /// The first file with data in the range.
    pub first_index: u32,
    /// The last file with data in the range; never 0.
    pub last_index: u32,
    /// Address of the first block.
    pub start: u64,
    /// Address of the last byte of the last block; never before `start`.
    pub end: u64,
}

/// A File row, borrowed for as long as the next one is not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogFile<'a> {
    /// FileIndex; 0 or less says that the file was deleted.
    pub file_index: i32,
    /// Path, which ends in `/`.
    pub path: &'a [u8],
    /// Name in that path; empty for the directory itself.
    pub name: &'a [u8],
    /// The encoded `stat` fields.
    pub lstat: &'a [u8],
    /// Digest in base64; empty or `0` when there is none.
    pub digest: &'a [u8],
    /// Number in a sequence of deltas; 0 for a whole file.
    pub delta_seq: i32,
}

/// A File row of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedCatalogFile {
    /// FileIndex; 0 or less says that the file was deleted.
    pub file_index: i32,
    /// Path, which ends in `/`.
    pub path: Vec<u8>,
    /// Name in that path; empty for the directory itself.
    pub name: Vec<u8>,
    /// The encoded `stat` fields.
    pub lstat: Vec<u8>,
    /// Digest in base64; empty or `0` when there is none.
    pub digest: Vec<u8>,
    /// Number in a sequence of deltas; 0 for a whole file.
    pub delta_seq: i32,
}

impl From<CatalogFile<'_>> for OwnedCatalogFile {
    fn from(row: CatalogFile<'_>) -> Self {
        Self {
            file_index: row.file_index,
            path: row.path.to_vec(),
            name: row.name.to_vec(),
            lstat: row.lstat.to_vec(),
            digest: row.digest.to_vec(),
            delta_seq: row.delta_seq,
        }
    }
}

/// A catalog. All methods fail when it cannot be reached or read; a lost connection is made anew once.
pub trait Catalog: Send + Sync {
    /// The jobs that can have data in volumes, by JobId. Restores, administration and verification are not among them.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read.
    fn jobs(&self) -> Result<Vec<CatalogJob>>;

    /// Where the blocks of job `job_id` are, in the order in which they were written.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read.
    fn job_media(&self, job_id: u32) -> Result<Vec<MediaRange>>;

    /// The same of all jobs at once, by JobId.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read.
    fn all_job_media(&self) -> Result<HashMap<u32, Vec<MediaRange>>>;

    /// Hand the files of job `job_id` to `sink`, one by one in no particular order, in bounded memory.
    ///
    /// # Errors
    ///
    /// What `sink` returned, or when the catalog cannot be read.
    fn for_each_file(&self, job_id: u32, sink: &mut dyn FnMut(CatalogFile<'_>) -> Result<()>) -> Result<()>;

    /// The file `name` in `path` (which ends in `/`; an empty name is the directory itself) of job `job_id`; the one
    /// with the highest FileIndex when there are several.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read.
    fn find_file(&self, job_id: u32, path: &[u8], name: &[u8]) -> Result<Option<OwnedCatalogFile>>;
}

/// Open the catalog at `url`:
///
/// * `sqlite:FILE`,
/// * `postgresql://USER:PASSWORD@HOST:PORT/DATABASE` (or `postgres:`), where HOST may be the folder of a Unix socket,
///   as `%2Fvar%2Frun%2Fpostgresql` or by `?host=/var/run/postgresql`,
/// * `mysql://USER:PASSWORD@HOST:PORT/DATABASE` (or `mariadb:`), or `?socket=/run/mysqld/mysqld.sock`.
///
/// Without a database in the URL it is `bacula`; without a password it is that of the environment variable
/// `PGPASSWORD` or `MYSQL_PWD`. Connections are not encrypted.
///
/// # Errors
///
/// When the URL is none of these, the catalog cannot be reached, or it is not a catalog of a known version. A
/// password is never part of the message.
pub fn open(url: &str) -> Result<Arc<dyn Catalog>> {
    let Location { shown, place } = Location::parse(url)?;
    Ok(match place {
        location::Place::Sqlite(path) => Arc::new(Sql::open(shown, sqlite::Sqlite { path })?),
        location::Place::Postgres(server) => Arc::new(Sql::open(shown, postgres::Postgres { server })?),
        location::Place::Mysql(server) => Arc::new(Sql::open(shown, mysql::Mysql { server })?),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        time::{Duration, Instant},
    };

    use blockdev::ErrorKind;

    use super::*;

    #[test]
    fn a_server_that_accepts_and_never_answers() {
        // The kernel accepts; nobody ever reads.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        for scheme in ["postgresql", "mysql"] {
            let Location { shown, place } =
                Location::parse(&format!("{scheme}://u:s3cret@127.0.0.1:{port}/b")).unwrap();
            let begin = Instant::now();
            let patience = Duration::from_millis(200);
            let error = match place {
                location::Place::Postgres(mut server) => {
                    server.patience = patience;
                    Sql::open(shown, postgres::Postgres { server }).err().unwrap()
                }
                location::Place::Mysql(mut server) => {
                    server.patience = patience;
                    Sql::open(shown, mysql::Mysql { server }).err().unwrap()
                }
                location::Place::Sqlite(_) => panic!("no server"),
            };
            assert!(begin.elapsed() < Duration::from_secs(10), "{scheme}: {:?}", begin.elapsed());
            assert_eq!(error.kind(), ErrorKind::Io);
            let text = error.to_string();
            assert!(text.contains("cannot connect") && text.ends_with("the server does not answer"), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
