//! What rows of the catalog mean, whichever engine they come from.

use blockdev::{Error, Result};

use super::{CatalogFile, CatalogJob, MediaRange};

/// A row as an engine hands it out. NULL, and a value of another sort than asked for, is `None`.
pub trait Row {
    /// The number in column `column`.
    fn int(&self, column: usize) -> Option<i64>;
    /// The bytes in column `column`, as they are stored.
    fn bytes(&self, column: usize) -> Option<&[u8]>;
}

/// What sort of value a column holds.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A number.
    Int,
    /// Bytes.
    Bytes,
    /// A point in time; read as bytes `YYYY-MM-DD HH:MM:SS`.
    Time,
}

/// A column: its name in SQL, and its sort.
pub type Column = (&'static str, Kind);

/// The columns that [`job`] reads.
pub const JOB: [Column; 20] = [
    ("Job.JobId", Kind::Int),
    ("Job.Job", Kind::Bytes),
    ("Job.Name", Kind::Bytes),
    ("Client.Name", Kind::Bytes),
    ("FileSet.FileSet", Kind::Bytes),
    ("Pool.Name", Kind::Bytes),
    ("Job.Type", Kind::Bytes),
    ("Job.Level", Kind::Bytes),
    ("Job.JobStatus", Kind::Bytes),
    ("Job.SchedTime", Kind::Time),
    ("Job.StartTime", Kind::Time),
    ("Job.EndTime", Kind::Time),
    ("Job.JobTDate", Kind::Int),
    ("Job.VolSessionId", Kind::Int),
    ("Job.VolSessionTime", Kind::Int),
    ("Job.JobFiles", Kind::Int),
    ("Job.JobBytes", Kind::Int),
    ("Job.PriorJobId", Kind::Int),
    ("Job.PurgedFiles", Kind::Int),
    ("Job.HasBase", Kind::Int),
];

/// The columns that [`media`] reads.
pub const MEDIA: [Column; 9] = [
    ("JobMedia.JobId", Kind::Int),
    ("Media.VolumeName", Kind::Bytes),
    ("Media.MediaType", Kind::Bytes),
    ("JobMedia.FirstIndex", Kind::Int),
    ("JobMedia.LastIndex", Kind::Int),
    ("JobMedia.StartFile", Kind::Int),
    ("JobMedia.StartBlock", Kind::Int),
    ("JobMedia.EndFile", Kind::Int),
    ("JobMedia.EndBlock", Kind::Int),
];

/// The columns that [`file`] reads; the name is in the column that the schema has for it.
#[must_use]
pub const fn file_columns(name: &'static str) -> [Column; 6] {
    [
        ("File.FileIndex", Kind::Int),
        ("Path.Path", Kind::Bytes),
        (name, Kind::Bytes),
        ("File.LStat", Kind::Bytes),
        ("File.MD5", Kind::Bytes),
        ("File.DeltaSeq", Kind::Int),
    ]
}

/// A job from the columns of [`JOB`].
///
/// # Errors
///
/// When the JobId is not one.
pub fn job(row: &dyn Row) -> Result<CatalogJob> {
    Ok(CatalogJob {
        job_id: job_id(row)?,
        unique_name: text(row, 1),
        name: text(row, 2),
        client: text(row, 3),
        fileset: text(row, 4),
        pool: text(row, 5),
        kind: letter(row, 6),
        level: letter(row, 7),
        status: letter(row, 8),
        sched_time: time(row, 9),
        start_time: time(row, 10),
        end_time: time(row, 11),
        job_tdate: row.int(12).unwrap_or(0),
        session_id: unsigned(row, 13),
        session_time: unsigned(row, 14),
        files: u64::from(unsigned(row, 15)),
        bytes: row.int(16).and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
        prior_job_id: unsigned(row, 17),
        purged_files: row.int(18).is_some_and(|n| n != 0),
        has_base: row.int(19).is_some_and(|n| n != 0),
    })
}

/// A job's number and one of its ranges from the columns of [`MEDIA`]; `None` for the row of a job that died,
/// and for places that cannot be.
///
/// # Errors
///
/// When the JobId is not one.
pub fn media(row: &dyn Row) -> Result<Option<(u32, MediaRange)>> {
    let range = MediaRange {
        volume: text(row, 1),
        media_type: text(row, 2),
        first_index: unsigned(row, 3),
        last_index: unsigned(row, 4),
        start: u64::from(unsigned(row, 5)) << 32 | u64::from(unsigned(row, 6)),
        end: u64::from(unsigned(row, 7)) << 32 | u64::from(unsigned(row, 8)),
    };
    let job_id = job_id(row)?;
    // No file has an offset above `i64::MAX`; so what reckons with addresses cannot overflow.
    let is_place = range.start <= range.end && i64::try_from(range.end).is_ok();
    Ok((range.last_index != 0 && is_place).then_some((job_id, range)))
}

/// A file from the columns of [`file_columns`].
///
/// # Errors
///
/// When the FileIndex is not one.
pub fn file(row: &dyn Row) -> Result<CatalogFile<'_>> {
    let bytes = |column| row.bytes(column).unwrap_or_default();
    let file_index = row.int(0).unwrap_or(0);
    Ok(CatalogFile {
        file_index: i32::try_from(file_index)
            .map_err(|_| Error::damaged(format!("the catalog has a File row with FileIndex {file_index}")))?,
        path: bytes(1),
        name: bytes(2),
        lstat: bytes(3),
        digest: bytes(4),
        delta_seq: row.int(5).and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
    })
}

fn job_id(row: &dyn Row) -> Result<u32> {
    let stored = row.int(0);
    stored
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| Error::damaged(format!("the catalog has a row with JobId {}", stored.unwrap_or(0))))
}

/// A 32-bit number. PostgreSQL has no unsigned ones: there the upper half is negative.
fn unsigned(row: &dyn Row, column: usize) -> u32 {
    let number = row.int(column).unwrap_or(0);
    u32::try_from(number).or_else(|_| i32::try_from(number).map(i32::cast_unsigned)).unwrap_or(0)
}

fn letter(row: &dyn Row, column: usize) -> u8 {
    row.bytes(column).and_then(|b| b.first().copied()).unwrap_or(b' ')
}

fn text(row: &dyn Row, column: usize) -> String {
    String::from_utf8_lossy(row.bytes(column).unwrap_or_default()).into_owned()
}

/// A time; a job that did not come so far has NULL, 0 or the year 0.
fn time(row: &dyn Row, column: usize) -> Option<String> {
    let text = text(row, column);
    (text.len() >= 19 && !text.starts_with("0000")).then_some(text)
}
