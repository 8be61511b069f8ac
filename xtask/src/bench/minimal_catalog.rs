//! The catalog of a synthetic volume: the tables of schema 16 (Bacula 9.6) that a restore looks at.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use rusqlite::{Connection, params};

use super::synthetic::{JOB_ID, TIME, unique_job};

/// One JobMedia row: the files and the bytes (`end` inclusive) of the volume that it covers.
pub struct Range {
    /// First FileIndex with data in the range.
    pub first_index: u32,
    /// Last FileIndex with data in the range.
    pub last_index: u32,
    /// Address of the first byte.
    pub start: u64,
    /// Address of the last byte.
    pub end: u64,
}

/// The attributes of a synthetic file, in the order of Bacula's encoding.
pub struct Stat([u64; 16]);

impl Stat {
    /// A regular file, mode 644, with one link.
    pub fn file(inode: u32, bytes: u64, time: u32) -> Self {
        Self::new(inode, 0o100_644, 1, bytes, time)
    }

    /// A directory, mode 755.
    pub fn directory(inode: u32, time: u32) -> Self {
        Self::new(inode, 0o40_755, 2, 4096, time)
    }

    fn new(inode: u32, mode: u64, links: u64, bytes: u64, time: u32) -> Self {
        let time = u64::from(time);
        const DEVICE: u64 = 2049;
        const PLAIN_DATA: u64 = 2;
        let blocks = bytes.div_ceil(512);
        Self([DEVICE, inode.into(), mode, links, 0, 0, 0, bytes, 4096, blocks, time, time, time, 0, 0, PLAIN_DATA])
    }

    /// The text of the attributes record and of column `LStat`: numbers in Bacula's base 64.
    pub fn encode(&self) -> String {
        self.0.map(base64_number).join(" ")
    }
}

/// A number in Bacula's base 64: most significant digit first, no padding.
fn base64_number(mut number: u64) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut digits = Vec::new();
    loop {
        digits.push(char::from(DIGITS[(number % 64) as usize]));
        number /= 64;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

const TABLES: &str = "
CREATE TABLE Version (VersionId INTEGER UNSIGNED NOT NULL);
CREATE TABLE Client (ClientId INTEGER PRIMARY KEY, Name TEXT NOT NULL, Uname TEXT NOT NULL DEFAULT '');
CREATE TABLE FileSet (FileSetId INTEGER PRIMARY KEY, FileSet TEXT NOT NULL, MD5 TEXT NOT NULL, CreateTime DATETIME);
CREATE TABLE Pool (PoolId INTEGER PRIMARY KEY, Name TEXT NOT NULL, PoolType TEXT NOT NULL DEFAULT 'Backup',
    LabelFormat TEXT NOT NULL DEFAULT '*');
CREATE TABLE Job (JobId INTEGER PRIMARY KEY, Job TEXT NOT NULL, Name TEXT NOT NULL, Type CHAR(1) NOT NULL,
    Level CHAR(1) NOT NULL, ClientId INTEGER, JobStatus CHAR(1) NOT NULL, SchedTime DATETIME, StartTime DATETIME,
    EndTime DATETIME, RealEndTime DATETIME, JobTDate BIGINT, VolSessionId INTEGER, VolSessionTime INTEGER,
    JobFiles INTEGER, JobBytes BIGINT, ReadBytes BIGINT, JobErrors INTEGER DEFAULT 0,
    JobMissingFiles INTEGER DEFAULT 0, PoolId INTEGER, FileSetId INTEGER, PriorJobId INTEGER DEFAULT 0,
    PurgedFiles TINYINT DEFAULT 0, HasBase TINYINT DEFAULT 0, HasCache TINYINT DEFAULT 0,
    Reviewed TINYINT DEFAULT 0, Comment TEXT, FileTable TEXT DEFAULT 'File');
CREATE TABLE Media (MediaId INTEGER PRIMARY KEY, VolumeName TEXT NOT NULL, PoolId INTEGER, MediaType TEXT NOT NULL,
    VolJobs INTEGER, VolBytes BIGINT, VolStatus TEXT NOT NULL, VolType INTEGER DEFAULT 1, VolParts INTEGER DEFAULT 0,
    VolCloudParts INTEGER DEFAULT 0, LastPartBytes BIGINT DEFAULT 0, Enabled TINYINT DEFAULT 1,
    Recycle TINYINT DEFAULT 0);
CREATE TABLE JobMedia (JobMediaId INTEGER PRIMARY KEY, JobId INTEGER NOT NULL, MediaId INTEGER NOT NULL,
    FirstIndex INTEGER NOT NULL, LastIndex INTEGER NOT NULL, StartFile INTEGER, EndFile INTEGER, StartBlock INTEGER,
    EndBlock INTEGER, VolIndex INTEGER);
CREATE TABLE Path (PathId INTEGER PRIMARY KEY, Path TEXT);
CREATE TABLE Filename (FilenameId INTEGER PRIMARY KEY, Name TEXT);
CREATE TABLE File (FileId INTEGER PRIMARY KEY, FileIndex INTEGER, JobId INTEGER NOT NULL, PathId INTEGER NOT NULL,
    FilenameId INTEGER NOT NULL, DeltaSeq SMALLINT DEFAULT 0, MarkId INTEGER DEFAULT 0, LStat TEXT NOT NULL,
    MD5 TEXT NOT NULL);
CREATE TABLE BaseFiles (BaseId BIGINT PRIMARY KEY, BaseJobId INTEGER, JobId INTEGER, FileId INTEGER,
    FileIndex INTEGER);
CREATE TABLE RestoreObject (RestoreObjectId INTEGER PRIMARY KEY, JobId INTEGER);
INSERT INTO Version VALUES (16);
BEGIN;
";

/// Indexes as the stock schema has them, made once all rows are in.
const INDEXES: &str = "
CREATE INDEX inx1 ON Filename (Name);
CREATE INDEX inx2 ON Path (Path);
CREATE INDEX inx3 ON File (JobId);
CREATE INDEX file_jpf_idx ON File (JobId, PathId, FilenameId);
CREATE INDEX inx7 ON JobMedia (JobId, MediaId);
";

/// A catalog being written; nothing of it is durable before [`MinimalCatalog::finish`].
pub struct MinimalCatalog {
    connection: Connection,
    name: String,
    paths: HashMap<String, i64>,
    names: i64,
}

impl MinimalCatalog {
    /// Starts an empty catalog in `file` for one job called `name`; an older file is replaced.
    pub fn create(file: &Path, name: &str) -> Result<Self> {
        let _ = std::fs::remove_file(file);
        let connection = Connection::open(file).with_context(|| format!("{}", file.display()))?;
        connection.execute_batch(TABLES)?;
        // Directories have the empty name.
        connection.execute("INSERT INTO Filename VALUES (1, '')", [])?;
        Ok(Self { connection, name: name.to_owned(), paths: HashMap::new(), names: 1 })
    }

    /// Adds a file, or a directory if `path` ends with a slash.
    pub fn file(&mut self, file_index: u32, path: &str, lstat: &str) -> Result<()> {
        let cut = path.rfind('/').map_or(0, |slash| slash + 1);
        let (folder, name) = path.split_at(cut);
        let path_id = match self.paths.get(folder) {
            Some(&id) => id,
            None => {
                self.connection.execute("INSERT INTO Path (Path) VALUES (?1)", [folder])?;
                let id = self.connection.last_insert_rowid();
                self.paths.insert(folder.to_owned(), id);
                id
            }
        };
        let name_id = if name.is_empty() {
            1
        } else {
            // Every file of a synthetic volume has a name of its own.
            self.names += 1;
            let mut insert = self.connection.prepare_cached("INSERT INTO Filename VALUES (?1, ?2)")?;
            insert.execute(params![self.names, name])?;
            self.names
        };
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO File (FileIndex, JobId, PathId, FilenameId, LStat, MD5) VALUES (?1, ?2, ?3, ?4, ?5, '0')",
        )?;
        insert.execute(params![file_index, JOB_ID, path_id, name_id, lstat])?;
        Ok(())
    }

    /// Writes the rows of the job and its volume and makes all durable.
    pub fn finish(self, files: u32, bytes: u64, volume_bytes: u64, ranges: &[Range]) -> Result<()> {
        let (connection, name) = (&self.connection, &self.name);
        connection.execute("INSERT INTO Client (Name) VALUES ('bench-fd')", [])?;
        connection.execute(
            "INSERT INTO FileSet (FileSet, MD5, CreateTime) VALUES (?1, 'synthetic', '2026-01-01 00:00:00')",
            [format!("{name}-fs")],
        )?;
        connection.execute("INSERT INTO Pool (Name) VALUES (?1)", [format!("{name}-pool")])?;
        connection.execute(
            "INSERT INTO Job (JobId, Job, Name, Type, Level, ClientId, JobStatus, SchedTime, StartTime, EndTime, \
             RealEndTime, JobTDate, VolSessionId, VolSessionTime, JobFiles, JobBytes, ReadBytes, PoolId, FileSetId) \
             VALUES (?1, ?2, ?3, 'B', 'F', 1, 'T', ?4, ?4, ?4, ?4, ?5, 1, ?5, ?6, ?7, ?7, 1, 1)",
            params![JOB_ID, unique_job(name), name, "2026-01-01 00:00:00", TIME, files, bytes.cast_signed()],
        )?;
        connection.execute(
            "INSERT INTO Media (MediaId, VolumeName, PoolId, MediaType, VolJobs, VolBytes, VolStatus) \
             VALUES (1, ?1, 1, ?2, 1, ?3, 'Full')",
            params![format!("{name}-0001"), format!("{name}-mt"), volume_bytes.cast_signed()],
        )?;
        for (number, range) in ranges.iter().enumerate() {
            let half = |address: u64| ((address >> 32).cast_signed(), (address & 0xFFFF_FFFF).cast_signed());
            let ((start_file, start_block), (end_file, end_block)) = (half(range.start), half(range.end));
            connection.execute(
                "INSERT INTO JobMedia (JobId, MediaId, FirstIndex, LastIndex, StartFile, StartBlock, EndFile, \
                 EndBlock, VolIndex) VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    JOB_ID,
                    range.first_index,
                    range.last_index,
                    start_file,
                    start_block,
                    end_file,
                    end_block,
                    i64::try_from(number)? + 1
                ],
            )?;
        }
        connection.execute_batch("COMMIT;")?;
        connection.execute_batch(INDEXES)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text is what stock 9.6.7 stored for a file of these attributes, but for owner times and numbers.
    #[test]
    fn numbers_are_encoded_as_bacula_does() {
        let stock = "7nW0A";
        let value = stock.bytes().fold(0, |sum, digit| {
            let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            sum * 64 + digits.iter().position(|d| *d == digit).unwrap() as u64
        });
        assert_eq!(base64_number(value), stock);
        assert_eq!(base64_number(0), "A");
        assert_eq!(base64_number(0o100_644), "IGk");
        assert_eq!(base64_number(4096), "BAA");
    }
}
