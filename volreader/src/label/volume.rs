//! The volume label: who this volume is.

use blockdev::{Error, Result};

use crate::bytes::Fields;

/// What a volume says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeLabel {
    /// Volume name.
    pub name: String,
    /// Pool it was labelled into.
    pub pool: String,
    /// Media type.
    pub media_type: String,
    /// Host and name of the Storage daemon.
    pub host: String,
    /// When it was labelled, microseconds since 1970 UTC.
    pub labelled_at: i64,
    /// When it was first written (or recycled), microseconds since 1970 UTC.
    pub written_at: i64,
    /// Configured maximum block size, 0 for the default.
    pub block_size: u32,
}

impl VolumeLabel {
    /// Parse the payload of a volume label record.
    ///
    /// # Errors
    ///
    /// `Unsupported` for volume types whose data is elsewhere (aligned, deduplicated), `Damaged` otherwise.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let damaged = || Error::damaged("the volume label is cut off or not a label");
        let mut f = Fields::new(payload);
        let id = f.text().ok_or_else(damaged)?;
        match id.trim_end() {
            super::ORDINARY_ID | super::CLOUD_ID => {}
            "Bacula 1.0 Metadata" | "Bacula 1.0 Aligned Data" => {
                return Err(Error::unsupported(
                    "aligned volumes (Bacula Enterprise) keep their data elsewhere and cannot be read",
                ));
            }
            "Bacula 1.0 Dedup Metadata" => {
                return Err(Error::unsupported(
                    "deduplicated volumes (Bacula Enterprise) keep their data in the dedup engine and cannot be read",
                ));
            }
            _ => return Err(damaged()),
        }
        Self::fields(&mut f).ok_or_else(damaged)
    }

    fn fields(f: &mut Fields<'_>) -> Option<Self> {
        let version = f.u32()?;
        let (labelled_at, written_at) = if version >= 11 {
            let times = (f.i64()?, f.i64()?);
            f.take(16)?; // two floating-point dates, 0 since version 11
            times
        } else {
            f.take(32)?; // Julian dates of Bacula before 1.27: not worth converting
            (0, 0)
        };
        let name = f.text()?;
        f.text()?; // previous volume: always empty
        let pool = f.text()?;
        f.text()?; // pool type
        let media_type = f.text()?;
        let host = f.text()?;
        // What follows (program, version, alignment, keys) differs between releases and is not needed.
        let block_size = (|| {
            for _ in 0..4 {
                f.until_nul()?; // LabelProg, ProgVersion, ProgDate, AlignedVolumeName
            }
            f.take(16)?; // FirstData, FileAlignment, PaddingSize
            f.u32()
        })();
        Some(Self { name, pool, media_type, host, labelled_at, written_at, block_size: block_size.unwrap_or(0) })
    }
}
