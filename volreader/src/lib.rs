//! Reads what Bacula's Storage daemon wrote: volumes, blocks, records, streams, jobs and restore points.

pub mod codec;
pub mod digest;
pub mod stream;

pub use blockdev::{Error, ErrorKind, Result};
