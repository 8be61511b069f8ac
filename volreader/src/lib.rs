//! Reads what Bacula's Storage daemon wrote: volumes, blocks, records, streams, jobs and restore points.

pub mod acl;
pub mod archive;
pub mod attributes;
pub mod block;
pub mod bytes;
pub mod catalog;
pub mod codec;
pub mod content;
pub mod crypto;
pub mod digest;
pub mod file;
pub mod index;
pub mod label;
pub mod layout;
pub mod medium;
pub mod plugin;
pub mod record;
pub mod scan;
pub mod session;
pub mod stream;
pub mod volume;
pub mod xattr;

pub use blockdev::{Error, ErrorKind, Result};
