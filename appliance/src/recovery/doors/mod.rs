//! The doors of a session, one module each.

pub mod datastore;
pub mod iscsi;
pub mod nbd;
mod nfs;
pub mod reach;
mod smb;

use std::{net::SocketAddr, path::Path};

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

    /// Opens again, at the same place, what has ended by itself. Called now and then.
    ///
    /// # Errors
    ///
    /// When it cannot be opened; it is tried again by the next call.
    fn tend(&mut self) -> Result<()> {
        Ok(())
    }

    /// Closes it in good order; what was written is durable then.
    ///
    /// # Errors
    ///
    /// When it cannot be made durable.
    fn end(self: Box<Self>) -> Result<()>;
}

/// Opens the doors of a session: always one for this machine, and after it the one that was asked for, if it is another.
/// `step` is told what takes a while.
///
/// # Errors
///
/// When an address is taken or cannot be used.
pub fn open(record: &Record, folder: &Path, disks: &[LiveDisk], step: &dyn Fn(&str)) -> Result<Vec<Box<dyn Serving>>> {
    step("door");
    let own = nbd::open(record, folder, disks)?;
    match record.door {
        Door::Nbd => Ok(vec![own]),
        Door::Iscsi => Ok(vec![own, iscsi::open(record, folder, disks)?]),
        Door::Nfs => Ok(vec![own, nfs::open(record, folder, disks)?]),
        Door::Smb => Ok(vec![own, smb::open(record, folder, disks, step)?]),
    }
}

/// Takes away what doors of a session have left outside of this process, whoever opened them. Nothing is no error.
///
/// # Errors
///
/// When something cannot be ended or removed: the session's folder must not be removed then.
pub fn sweep(record: &Record, folder: &Path) -> Result<()> {
    smb::sweep(folder)?;
    record.reach.as_ref().map_or(Ok(()), reach::Reach::remove)
}

/// What is to be said of who can use the disks.
pub fn warning(record: &Record) -> Option<String> {
    if record.door == Door::Smb { smb::warning(record) } else { None }
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
    for listener in &listeners {
        if let Address::Tcp(address) = listener.address() {
            check_allowed(record, *address)?;
        }
    }
    Ok((listeners, Clients::new(record.allow.iter().map(String::as_str), false)?))
}

/// Fails for an address that other machines reach, of which none was named.
fn check_allowed(record: &Record, address: SocketAddr) -> Result<()> {
    if address.ip().is_loopback() || !record.allow.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "other machines reach {address}: name those that may connect by --allow (0.0.0.0/0 and ::/0 are all)"
    )))
}
