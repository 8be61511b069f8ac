//! The doors of a session, one module each.

pub mod iscsi;
pub mod nbd;
mod nfs;

use std::path::Path;

use blockdev::Result;

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

/// Opens the doors of a session: always one for this machine, and after it the one that was asked for, if it is another.
///
/// # Errors
///
/// When an address is taken or cannot be used.
pub fn open(record: &Record, folder: &Path, disks: &[LiveDisk]) -> Result<Vec<Box<dyn Serving>>> {
    let own = nbd::open(record, folder, disks)?;
    match record.door {
        Door::Nbd => Ok(vec![own]),
        Door::Iscsi => Ok(vec![own, iscsi::open(record, folder, disks)?]),
        Door::Nfs => Ok(vec![own, nfs::open(record, folder, disks)?]),
    }
}
