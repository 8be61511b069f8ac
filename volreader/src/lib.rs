//! Reads what Bacula's Storage daemon wrote: volumes, blocks, records, streams, jobs and restore points.

pub mod acl;
pub mod codec;
pub mod crypto;
pub mod digest;
pub mod plugin;
pub mod stream;
pub mod xattr;

pub use blockdev::{Error, ErrorKind, Result};
