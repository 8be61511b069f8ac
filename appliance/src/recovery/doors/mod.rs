//! The doors of a session, one module each.

mod nbd;

use std::path::Path;

use blockdev::{Error, Result};

use super::{
    live::LiveDisk,
    record::{Door, Record},
};

/// An open door.
pub trait Serving: Send {
    /// Where it is, so that it can be opened there again.
    fn addresses(&self) -> Vec<String>;

    /// What a client finds a disk by.
    fn uri(&self, disk: &str) -> String;

    /// Clients at this moment.
    fn clients(&self) -> usize;

    /// Closes it in good order; what was written is durable then.
    ///
    /// # Errors
    ///
    /// When it cannot be made durable.
    fn end(self: Box<Self>) -> Result<()>;
}

/// Opens the door of a session.
///
/// # Errors
///
/// When its address is taken or cannot be used.
pub fn open(record: &Record, folder: &Path, disks: &[LiveDisk]) -> Result<Box<dyn Serving>> {
    match record.door {
        Door::Nbd => nbd::open(record, folder, disks),
        other => Err(Error::unsupported(format!("sessions through {other:?} are not there yet"))),
    }
}
