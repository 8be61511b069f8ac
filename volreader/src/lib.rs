//! Reads what Bacula's Storage daemon wrote: volumes, blocks, records, streams, jobs and restore points.

pub mod digest;

pub use blockdev::{Error, ErrorKind, Result};
