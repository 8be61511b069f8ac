//! Blocks: the units in which the Storage daemon writes, each of exactly one session.
//!
//! A volume is a run of blocks without gaps. Everything that is known of a block before its bytes are trusted
//! stands in its [`Header`]; [`checksum`] says whether the bytes are those that were written.

mod header;

pub mod checksum;

pub use header::{Format, Header, MAX_BLOCK_LEN, MAX_HEADER_LEN, MIN_HEADER_LEN};

/// One run of a Storage daemon's job: the pair that ties the blocks of a job together, over all volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// `VolSessionTime`: when the daemon started, seconds since 1970.
    pub time: u32,
    /// `VolSessionId`: counts the daemon's jobs from 1.
    pub id: u32,
}
