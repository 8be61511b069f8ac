//! Labels: records with a negative file index that name volumes and sessions.

mod session;
mod volume;

pub use session::{End, SessionLabel};
pub use volume::VolumeLabel;

/// What a label record is, by its file index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// Volume labelled, nothing written yet.
    PreLabel,
    /// First record of every volume.
    Volume,
    /// End of medium (tapes).
    EndOfMedium,
    /// Start of a session.
    StartOfSession,
    /// End of a session.
    EndOfSession,
    /// End of tape, object begin and end: defined, never seen on disk.
    Other,
}

impl Type {
    /// The label type of a file index; `None` for files.
    #[must_use]
    pub const fn of(file_index: i32) -> Option<Self> {
        Some(match file_index {
            -1 => Self::PreLabel,
            -2 => Self::Volume,
            -3 => Self::EndOfMedium,
            -4 => Self::StartOfSession,
            -5 => Self::EndOfSession,
            i32::MIN..=-6 => Self::Other,
            _ => return None,
        })
    }
}

/// The Id that starts every label of an ordinary volume, without its newline.
pub(crate) const ORDINARY_ID: &str = "Bacula 1.0 immortal";
/// Cloud volumes have the same layout under another Id.
pub(crate) const CLOUD_ID: &str = "Bacula 1.0 S3 Cloud Data";
