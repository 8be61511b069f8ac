//! The queries, the same for all engines, and the connections that they are made over.
//!
//! Connections that are at rest are kept; each call takes one, or makes one when others use them all. So a lookup
//! never waits for a job whose files are being listed.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use blockdev::{Error, ErrorKind, Result};

use super::{
    Catalog, CatalogFile, CatalogJob, MediaRange, OwnedCatalogFile,
    row::{self, Column, Kind, Row},
};

/// The cause when a server kept us waiting for too long.
pub const NO_ANSWER: &str = "the server does not answer";
/// How long a server's machine may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A machine that is gone without a word is noticed after about a minute, also by connections at rest.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_PROBES: u32 = 3;
/// Connections at rest that are kept.
const MAX_IDLE: usize = 4;

/// A bound parameter.
#[derive(Debug, Clone, Copy)]
pub enum Param<'a> {
    /// A number.
    Int(i64),
    /// The bytes of a name.
    Name(&'a [u8]),
}

/// Why a query did not come to its end.
pub enum Failure {
    /// The connection was lost; another may work.
    Lost(Box<dyn std::error::Error + Send + Sync>),
    /// The engine refused the query.
    Refused(Box<dyn std::error::Error + Send + Sync>),
    /// A parameter is nothing that the database could hold, so there is no such row.
    NoSuchName,
    /// The engine cannot read what it should.
    Failed(Error),
    /// Whoever got the rows did not go on.
    Sink(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sink(error)
    }
}

/// What gets the rows.
pub type EachRow<'a> = dyn FnMut(&dyn Row) -> Result<()> + 'a;

/// A database engine.
pub trait Engine: Send + Sync {
    /// A connection.
    type Connection: Send;

    /// Connect, unable to write. `shown` is the URL for messages.
    ///
    /// # Errors
    ///
    /// When that is not possible: which URL, why, what to do.
    fn connect(&self, shown: &str) -> Result<Self::Connection>;

    /// Whether a connection that was at rest still leads to the catalog that the URL names.
    fn is_current(&self, _connection: &Self::Connection) -> bool {
        true
    }

    /// Hand the rows of `sql` to `each`, in bounded memory.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    fn query(
        &self,
        connection: &mut Self::Connection,
        sql: &str,
        params: &[Param<'_>],
        each: &mut EachRow<'_>,
    ) -> std::result::Result<(), Failure>;

    /// How SQL asks for a column, so that [`Row`] can read it.
    fn column(&self, column: Column) -> String {
        column.0.to_owned()
    }

    /// How SQL names parameter `number` (from 1, in the order of the text: MySQL counts them) of sort `kind`.
    fn placeholder(&self, number: usize, kind: Kind) -> String;
}

/// A catalog behind an engine.
pub struct Sql<E: Engine> {
    shown: String,
    engine: E,
    idle: Mutex<Vec<E::Connection>>,
    queries: Queries,
}

/// Where a schema has the names of files.
#[derive(Clone, Copy)]
enum Names {
    /// In the rows of `File`: since schema 1021 or so.
    InFile,
    /// In a table of their own, `Filename`.
    InTheirOwnTable,
}

/// The queries of one schema, in the words of one engine.
#[derive(Default)]
struct Queries {
    jobs: String,
    media: String,
    all_media: String,
    files: String,
    file: String,
}

impl<E: Engine> Sql<E> {
    /// Connect, and see which schema the catalog has.
    ///
    /// # Errors
    ///
    /// When it cannot be reached, or is no catalog of a known schema.
    pub fn open(shown: String, engine: E) -> Result<Self> {
        let mut catalog = Self { shown, engine, idle: Mutex::default(), queries: Queries::default() };
        let mut version = None;
        let version_query = format!("SELECT {} FROM Version", catalog.columns(&[("VersionId", Kind::Int)]));
        catalog.query(&version_query, &[], &mut |row| {
            version = version.max(row.int(0));
            Ok(())
        })?;
        let version = version.map_or_else(|| "none".to_owned(), |v| v.to_string());
        // Not by the version: its numbers jumped, and differ between editions.
        let has = |sql: &str| match catalog.query(sql, &[], &mut |_| Ok(())) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(false),
            Err(error) => Err(error),
        };
        let names = if has("SELECT Filename FROM File WHERE 1 = 0")? {
            Names::InFile
        } else if has("SELECT FilenameId FROM File WHERE 1 = 0")? {
            Names::InTheirOwnTable
        } else {
            return Err(Error::unsupported(format!(
                "catalog {}: schema version {version} has File rows of an unknown form (or they may not be read); \
                 the catalogs of Bacula 9.6 (version 16) to 15 (1026) can be read",
                catalog.shown
            )));
        };
        catalog.queries = catalog.queries_for(names);
        Ok(catalog)
    }

    fn columns(&self, columns: &[Column]) -> String {
        let columns: Vec<_> = columns.iter().map(|c| self.engine.column(*c)).collect();
        columns.join(", ")
    }

    fn queries_for(&self, names: Names) -> Queries {
        let place = |number, kind| self.engine.placeholder(number, kind);
        let (name, join) = match names {
            Names::InFile => ("File.Filename", ""),
            Names::InTheirOwnTable => ("Filename.Name", " JOIN Filename ON Filename.FilenameId = File.FilenameId"),
        };
        let asked = place(3, Kind::Bytes);
        let is_asked = match names {
            Names::InFile => format!("File.Filename = {asked}"),
            Names::InTheirOwnTable => {
                format!("File.FilenameId IN (SELECT FilenameId FROM Filename WHERE Name = {asked})")
            }
        };
        let jobs = self.columns(&row::JOB);
        let media = self.columns(&row::MEDIA);
        let file = self.columns(&row::file_columns(name));
        let media = format!("SELECT {media} FROM JobMedia JOIN Media ON Media.MediaId = JobMedia.MediaId");
        let by_number = "ORDER BY JobMedia.JobMediaId";
        Queries {
            jobs: format!(
                "SELECT {jobs} FROM Job LEFT JOIN Client ON Client.ClientId = Job.ClientId \
                 LEFT JOIN FileSet ON FileSet.FileSetId = Job.FileSetId LEFT JOIN Pool ON Pool.PoolId = Job.PoolId \
                 WHERE Job.Type IN ('B', 'C', 'M') ORDER BY Job.JobId"
            ),
            media: format!("{media} WHERE JobMedia.JobId = {} {by_number}", place(1, Kind::Int)),
            all_media: format!("{media} {by_number}"),
            files: format!(
                "SELECT {file} FROM File JOIN Path ON Path.PathId = File.PathId{join} WHERE File.JobId = {}",
                place(1, Kind::Int)
            ),
            // Subqueries and not joins: all engines then go by (job, path, name), the index that File always has. From
            // a join, SQLite concludes that the job's number is selective and reads all its rows.
            file: format!(
                "SELECT {file} FROM File JOIN Path ON Path.PathId = File.PathId{join} WHERE File.JobId = {} \
                 AND File.PathId IN (SELECT PathId FROM Path WHERE Path = {}) AND {is_asked} \
                 ORDER BY File.FileIndex DESC LIMIT 1",
                place(1, Kind::Int),
                place(2, Kind::Bytes),
            ),
        }
    }

    /// A connection, and whether it was just made.
    fn connection(&self) -> Result<(E::Connection, bool)> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match kept {
                Some(connection) if self.engine.is_current(&connection) => return Ok((connection, false)),
                Some(_) => {}
                None => return Ok((self.engine.connect(&self.shown)?, true)),
            }
        }
    }

    fn keep(&self, connection: E::Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    fn query(&self, sql: &str, params: &[Param<'_>], each: &mut EachRow<'_>) -> Result<()> {
        let (mut connection, mut is_new) = self.connection()?;
        loop {
            let mut delivered = false;
            let failure = self.engine.query(&mut connection, sql, params, &mut |row| {
                delivered = true;
                each(row)
            });
            match failure {
                Ok(()) | Err(Failure::NoSuchName) => {
                    self.keep(connection);
                    return Ok(());
                }
                // A server ends connections at rest; when it was restarted, all of them.
                Err(Failure::Lost(_)) if !is_new && !delivered => {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    connection = self.engine.connect(&self.shown)?;
                    is_new = true;
                }
                Err(Failure::Lost(cause)) => {
                    let message = format!("catalog {}: the connection was lost; is the server up?", self.shown);
                    return Err(Error::new(ErrorKind::Io, message).with_source(cause));
                }
                Err(Failure::Refused(cause)) => {
                    self.keep(connection);
                    let message = format!(
                        "catalog {}: not readable as a Bacula catalog; check the database's name and the rights to \
                         read its tables",
                        self.shown
                    );
                    return Err(Error::unsupported(message).with_source(cause));
                }
                Err(Failure::Failed(error)) => return Err(error.context(format_args!("catalog {}", self.shown))),
                // The connection may still be full of rows: it is not kept.
                Err(Failure::Sink(error)) => return Err(error),
            }
        }
    }
}

impl<E: Engine> Catalog for Sql<E> {
    fn jobs(&self) -> Result<Vec<CatalogJob>> {
        let mut jobs = Vec::new();
        self.query(&self.queries.jobs, &[], &mut |row| {
            jobs.push(row::job(row)?);
            Ok(())
        })?;
        Ok(jobs)
    }

    fn job_media(&self, job_id: u32) -> Result<Vec<MediaRange>> {
        let mut ranges = Vec::new();
        self.query(&self.queries.media, &[Param::Int(i64::from(job_id))], &mut |row| {
            ranges.extend(row::media(row)?.map(|(_, range)| range));
            Ok(())
        })?;
        Ok(ranges)
    }

    fn all_job_media(&self) -> Result<HashMap<u32, Vec<MediaRange>>> {
        let mut jobs: HashMap<u32, Vec<MediaRange>> = HashMap::new();
        self.query(&self.queries.all_media, &[], &mut |row| {
            if let Some((job_id, range)) = row::media(row)? {
                jobs.entry(job_id).or_default().push(range);
            }
            Ok(())
        })?;
        Ok(jobs)
    }

    fn for_each_file(&self, job_id: u32, sink: &mut dyn FnMut(CatalogFile<'_>) -> Result<()>) -> Result<()> {
        self.query(&self.queries.files, &[Param::Int(i64::from(job_id))], &mut |row| sink(row::file(row)?))
    }

    fn find_file(&self, job_id: u32, path: &[u8], name: &[u8]) -> Result<Option<OwnedCatalogFile>> {
        let mut found = None;
        let params = [Param::Int(i64::from(job_id)), Param::Name(path), Param::Name(name)];
        self.query(&self.queries.file, &params, &mut |row| {
            found = Some(row::file(row)?.into());
            Ok(())
        })?;
        Ok(found)
    }
}
