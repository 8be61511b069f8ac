//! The doors of a session, one module each.

pub mod iscsi;
pub mod nbd;
mod nfs;

use std::path::Path;

use blockdev::{Error, Result};
use exporters::nbd::{Address, Clients, Listener};

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

/// The sockets of a door, and the machines that may connect there. What other machines reach is for those that were named.
///
/// # Errors
///
/// When an address is taken, or is open to machines of which none was named.
fn sockets(record: &Record, addresses: &[String]) -> Result<(Vec<Listener>, Clients)> {
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.extend(Listener::tcp(address)?);
    }
    let is_open = |listener: &&Listener| matches!(listener.address(), Address::Tcp(a) if !a.ip().is_loopback());
    if record.allow.is_empty()
        && let Some(open) = listeners.iter().find(is_open)
    {
        return Err(Error::invalid(format!(
            "other machines reach {}: name those that may connect by --allow (0.0.0.0/0 and ::/0 are all)",
            open.address()
        )));
    }
    Ok((listeners, Clients::new(record.allow.iter().map(String::as_str), false)?))
}
