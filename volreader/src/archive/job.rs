//! A job as an archive shows it: what is known of it, its files, its data.

use std::sync::Arc;

use blockdev::Result;
use serde::{Deserialize, Serialize};

use crate::{
    block::Session,
    catalog::CatalogJob,
    index::table::Table,
    scan::job::{JobScan, StreamTotal},
    session::SessionData,
    stream::{StreamId, StreamKind},
};

/// What is known of a job besides its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Number in the catalog; 0 when no label of the job is at hand.
    pub job_id: u32,
    /// Unique name: `name.YYYY-MM-DD_HH.MM.SS_NN`.
    pub unique_name: String,
    /// Name of the Job resource.
    pub name: String,
    /// Client.
    pub client: String,
    /// FileSet.
    pub fileset: String,
    /// Pool.
    pub pool: String,
    /// Type, one ASCII character.
    pub kind: u8,
    /// Level, one ASCII character.
    pub level: u8,
    /// Status, one ASCII character; `None` when the job has no end label.
    pub status: Option<u8>,
    /// When it started, `YYYY-MM-DD HH:MM:SS` in the Director's time.
    pub start_time: String,
    /// Files that were stored.
    pub files: u64,
    /// Bytes of data that were stored.
    pub bytes: u64,
    /// How much of which stream: number, records, bytes.
    pub streams: Vec<(u16, u64, u64)>,
    /// Restore objects and plugin records: file index and stream.
    pub objects: Vec<(u32, u16)>,
    /// Files whose names and attributes were in damaged or missing blocks: first and last index.
    pub lost: Vec<(u32, u32)>,
}

/// Letters of levels and statuses as Bacula shows them.
#[must_use]
pub const fn level_name(level: u8) -> &'static str {
    match level {
        b'F' => "Full",
        b'D' => "Differential",
        b'I' => "Incremental",
        b'f' => "VirtualFull",
        b'B' => "Base",
        b'C' => "VerifyCatalog",
        b' ' => "None",
        _ => "Unknown",
    }
}

/// What a status letter means.
#[must_use]
pub const fn status_name(status: Option<u8>) -> &'static str {
    match status {
        Some(b'T') => "OK",
        Some(b'W') => "OK, with warnings",
        Some(b'E' | b'e') => "error",
        Some(b'f') => "fatal error",
        Some(b'A') => "cancelled",
        Some(b'I') => "incomplete",
        Some(b'R') => "running, or its daemon died",
        Some(_) => "other",
        None => "no end label: running, cancelled, or its end is on another volume",
    }
}

impl Facts {
    /// From what a scan found.
    #[must_use]
    pub fn from_scan(session: Session, scan: &JobScan) -> Self {
        let label = scan.start.as_ref().or(scan.end.as_ref());
        let end = scan.end.as_ref().and_then(|l| l.end);
        let text = |get: fn(&crate::label::SessionLabel) -> &String| label.map(get).cloned().unwrap_or_default();
        let unique_name = text(|l| &l.unique_name);
        let start_time = time_of(&unique_name).unwrap_or_else(|| {
            let seconds = label.map_or(i64::from(session.time), |l| l.written_at / 1_000_000);
            utc(seconds)
        });
        let name = match label {
            Some(l) => l.name.clone(),
            None => format!("session-{}-{}", session.time, session.id),
        };
        Self {
            job_id: label.map_or(0, |l| l.job_id),
            unique_name,
            name,
            client: text(|l| &l.client),
            fileset: text(|l| &l.fileset),
            pool: text(|l| &l.pool),
            kind: label.map_or(b'?', |l| l.kind),
            level: label.map_or(b'?', |l| l.level),
            status: end.map(|e| e.status),
            start_time,
            files: end.map_or(u64::from(scan.file_count), |e| u64::from(e.files)),
            bytes: scan.data_bytes,
            streams: scan.streams.iter().map(|(k, StreamTotal { records, bytes })| (*k, *records, *bytes)).collect(),
            lost: scan.lost.clone(),
            objects: scan.objects.iter().map(|(i, s)| (*i, s.number())).collect(),
        }
    }

    /// From the catalog.
    #[must_use]
    pub fn from_catalog(job: &CatalogJob) -> Self {
        let stored = job.start_time.clone().or_else(|| job.sched_time.clone());
        Self {
            job_id: job.job_id,
            unique_name: job.unique_name.clone(),
            name: job.name.clone(),
            client: job.client.clone(),
            fileset: job.fileset.clone(),
            pool: job.pool.clone(),
            kind: job.kind,
            level: job.level,
            status: Some(job.status),
            start_time: time_of(&job.unique_name).or(stored).unwrap_or_else(|| utc(job.job_tdate)),
            files: job.files,
            bytes: job.bytes,
            streams: Vec::new(),
            objects: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// The time in the form of tree paths: `YYYY-MM-DDTHH:MM:SS`.
    #[must_use]
    pub fn path_time(&self) -> String {
        self.start_time.replace(' ', "T")
    }

    /// The job's folder below `jobs/`.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{}-{}-{}-{}", self.job_id, component(&self.name), level_name(self.level), self.path_time())
    }

    /// Whether Bacula would restore from it.
    #[must_use]
    pub const fn is_good_backup(&self) -> bool {
        self.kind == b'B' && matches!(self.status, Some(b'T' | b'W'))
    }
}

/// The scheduled time in a unique job name: the same from a label and from a catalog, in the Director's zone.
fn time_of(unique_name: &str) -> Option<String> {
    let at = unique_name.len().checked_sub(23)?;
    let stamp = unique_name.get(at..)?.strip_prefix('.')?;
    // YYYY-MM-DD_HH.MM.SS_NN
    let pattern = b"dddd-dd-dd_dd.dd.dd_dd";
    let fits = stamp.bytes().zip(pattern).all(|(b, p)| if *p == b'd' { b.is_ascii_digit() } else { b == *p });
    (fits && stamp.len() == pattern.len()).then(|| format!("{} {}", &stamp[..10], stamp[11..19].replace('.', ":")))
}

impl Facts {
    /// [`start_time`](Self::start_time) as seconds since 1970, taken as UTC.
    #[must_use]
    pub fn start_seconds(&self) -> i64 {
        let mut fields = self.start_time.split(['-', ' ', ':']).map(|f| f.parse::<i64>().unwrap_or(0));
        let mut next = || fields.next().unwrap_or(0).clamp(0, 9999);
        let (year, month, day, hour, minute, second) = (next(), next(), next(), next(), next(), next());
        // Days from the civil date, with years that begin in March.
        let year = year - i64::from(month <= 2);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = year.div_euclid(400) * 146_097 + year.rem_euclid(400) * 365 + year.rem_euclid(400) / 4
            - year.rem_euclid(400) / 100
            + day_of_year
            - 719_468;
        days * 86_400 + hour * 3600 + minute * 60 + second
    }
}

/// Seconds since 1970 as `YYYY-MM-DD HH:MM:SS` UTC.
#[must_use]
pub fn utc(seconds: i64) -> String {
    // Days to civil date by the usual era arithmetic (proleptic Gregorian calendar).
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days.saturating_add(719_468);
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// A name as one path component.
#[must_use]
pub fn component(name: &str) -> String {
    match name {
        "" => "unknown".to_owned(),
        "." | ".." => name.replace('.', "%2E"),
        _ => name.replace('/', "%2F").replace('\0', "%00"),
    }
}

/// A job of an archive.
#[derive(Debug)]
pub struct Job {
    /// What is known of it.
    pub facts: Facts,
    /// Its session.
    pub session: Session,
    /// Names of the volumes that hold it, as far as known.
    pub volumes: Vec<String>,
    /// What is missing: volume names, or what is known of the gap.
    pub missing: Vec<String>,
    pub(super) data: Arc<SessionData>,
    pub(super) files: super::files::Files,
}

impl Job {
    /// Its data.
    #[must_use]
    pub fn data(&self) -> &Arc<SessionData> {
        self.files.data().unwrap_or(&self.data)
    }

    /// Its files.
    ///
    /// # Errors
    ///
    /// When they have to be read from the catalog or the volumes first and cannot.
    pub fn table(&self) -> Result<&Table> {
        self.files.table()
    }

    /// The file at `path` (no slash in front), if the catalog's own index finds it without making the table.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be asked.
    pub fn find_quickly(&self, path: &[u8]) -> Result<Option<crate::index::entry::Entry>> {
        self.files.find_in_catalog(path)
    }

    /// Whether it is known that no file of the job has ACLs or extended attributes.
    #[must_use]
    pub fn has_no_xattrs(&self) -> bool {
        let carries = |k| matches!(k, StreamKind::Acl(_) | StreamKind::Xattr(_));
        !self.facts.streams.is_empty() && !self.streams().any(|(id, _)| carries(id.kind()))
    }

    /// Whether files of the job may hold Windows BackupRead data.
    #[must_use]
    pub fn has_backup_read(&self) -> bool {
        let carries = |k| matches!(k, StreamKind::Data(d) if d.win32);
        self.facts.streams.is_empty() || self.streams().any(|(id, _)| carries(id.kind()))
    }

    /// Streams with their totals, for listings.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, StreamTotal)> + '_ {
        let of = |(number, records, bytes): &(u16, u64, u64)| {
            (StreamId::from_header(i32::from(*number)), StreamTotal { records: *records, bytes: *bytes })
        };
        self.facts.streams.iter().map(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Facts {
        fn nothing() -> Self {
            Self::from_scan(Session { time: 0, id: 0 }, &JobScan::default())
        }
    }

    #[test]
    fn times() {
        assert_eq!(time_of("job.2026-11-21_04.51.46_05").as_deref(), Some("2026-11-21 04:51:46"));
        assert_eq!(time_of("a.b.2026-11-21_04.51.46_05").as_deref(), Some("2026-11-21 04:51:46"));
        assert_eq!(time_of("job"), None);
        assert_eq!(time_of("jöb.2026-11-21_04.51.46"), None);
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(utc(1_795_236_709), "2026-11-21 04:51:49");
        for seconds in [0, 951_782_400, 951_868_800, 1_795_236_709, 4_102_444_800] {
            let facts = Facts { start_time: utc(seconds), ..Facts::nothing() };
            assert_eq!(facts.start_seconds(), seconds);
        }
    }
}
