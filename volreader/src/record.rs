//! The record header: 12 bytes in front of every piece of a job's data.
//!
//! A record that does not fit into its block goes on in the session's next block behind another header with
//! the same file index, the negated stream and the bytes that are still to come.

use crate::bytes::Fields;

/// Bytes of a record header. Where fewer are left, the block ends short and the record starts in the next.
pub const HEADER_LEN: u32 = 12;
/// The stock readers (15.0) refuse longer records.
pub const MAX_RECORD_LEN: u32 = 20_000_000;

/// A record header as it stands in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of the file in the job from 1 on; negative: a label.
    pub file_index: i32,
    /// Stream as written; negative: continuation of the record that the session's previous block left off.
    pub stream: i32,
    /// Bytes of the record from here on; what is in this block may be less.
    pub len: u32,
}

impl Header {
    /// Parse the first 12 bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        Some(Self { file_index: fields.i32()?, stream: fields.i32()?, len: fields.u32()? })
    }

    /// Whether this is a session or volume label.
    #[must_use]
    pub const fn is_label(&self) -> bool {
        self.file_index < 0
    }

    /// Whether the record began in an earlier block.
    #[must_use]
    pub const fn is_continuation(&self) -> bool {
        self.file_index > 0 && self.stream < 0
    }

    /// Whether the fields are such as a Storage daemon writes.
    #[must_use]
    pub const fn is_plausible(&self) -> bool {
        let label = self.file_index <= -1 && self.file_index >= -8;
        (label || (self.file_index > 0 && self.stream != 0 && self.stream != i32::MIN)) && self.len <= MAX_RECORD_LEN
    }
}
