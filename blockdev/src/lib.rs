//! Random-access bytes: the waist through which every source meets every door.
//!
//! A backup file inside a Bacula volume, a disk image and a live VM's disk are all the same thing to
//! whoever reads them: a size and bytes at offsets. This crate says what that means ([`ReadAt`]) and what
//! can go wrong ([`Error`]). It knows nobody; everybody knows it.

mod error;
mod extent;
mod read_at;

pub use error::{Error, ErrorKind, Result};
pub use extent::{Extent, ExtentKind};
pub use read_at::{MappedRun, ReadAt};
