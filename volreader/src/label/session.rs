//! Session labels: the start (SOS) and the end (EOS) of a job's data.

use blockdev::{Error, Result};

use crate::bytes::Fields;

/// What a session label says of its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLabel {
    /// The job's number in the catalog.
    pub job_id: u32,
    /// When the label was written, microseconds since 1970 UTC.
    pub written_at: i64,
    /// Pool.
    pub pool: String,
    /// Name of the Job resource.
    pub name: String,
    /// Client.
    pub client: String,
    /// The job's unique name: `name.YYYY-MM-DD_HH.MM.SS_NN`.
    pub unique_name: String,
    /// FileSet.
    pub fileset: String,
    /// Job type, one ASCII character (`B` backup, `C` copy, ...).
    pub kind: u8,
    /// Job level, one ASCII character (`F`, `D`, `I`, ...).
    pub level: u8,
    /// What only the end label says.
    pub end: Option<End>,
}

/// The totals in an end label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Files.
    pub files: u32,
    /// Bytes as the Storage daemon counts them, attributes included.
    pub bytes: u64,
    /// Errors.
    pub errors: u32,
    /// Job status, one ASCII character (`T` good, `W` warnings, ...).
    pub status: u8,
}

impl SessionLabel {
    /// Parse the payload of a session label; `end` says whether it is one of end.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is cut off or no session label.
    pub fn parse(payload: &[u8], end: bool) -> Result<Self> {
        let damaged = || Error::damaged("the session label is cut off or not a label");
        let mut f = Fields::new(payload);
        let id = f.text().ok_or_else(damaged)?;
        if !matches!(id.trim_end(), super::ORDINARY_ID | super::CLOUD_ID) {
            return Err(damaged());
        }
        Self::fields(&mut f, end).ok_or_else(damaged)
    }

    fn fields(f: &mut Fields<'_>, end: bool) -> Option<Self> {
        let version = f.u32()?;
        let job_id = f.u32()?;
        let written_at = if version >= 11 { f.i64()? } else { f.take(8).map(|_| 0)? };
        f.take(8)?; // floating-point time, unused
        let pool = f.text()?;
        f.text()?; // pool type
        let (name, client) = (f.text()?, f.text()?);
        let unique_name = f.text()?;
        let fileset = f.text()?;
        let (kind, level) = (letter(f.u32()?), letter(f.u32()?));
        f.until_nul()?; // FileSetMD5
        let end = if end { Some(End::fields(f)?) } else { None };
        Some(Self { job_id, written_at, pool, name, client, unique_name, fileset, kind, level, end })
    }
}

impl End {
    fn fields(f: &mut Fields<'_>) -> Option<Self> {
        let (files, bytes) = (f.u32()?, f.u64()?);
        f.take(16)?; // start and end addresses of the last JobMedia range
        let (errors, status) = (f.u32()?, letter(f.u32()?));
        Some(Self { files, bytes, errors, status })
    }
}

/// The ASCII character in an integer field, `?` for what is none.
fn letter(value: u32) -> u8 {
    u8::try_from(value).ok().filter(u8::is_ascii_graphic).unwrap_or(b'?')
}
