//! NFS: the session's disks in a datastore, by default as flat VMDKs.
//!
//! QEMU's NFS client cannot be told ports: it asks the server's port mapper, at port 111. For a machine that QEMU runs, the
//! door has one, and unless an address was asked for, an address of this host's loopback to itself: several sessions can be
//! there at once, and a port mapper of the host at 127.0.0.1 is not in the way.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use blockdev::{Error, Result};
use exporters::nfs::{Address, Clients, Config, Export, ExportOptions, Limits, Listener, Server, Sockets};
use vfs::providers::datastore::Datastore;

use super::{super::live::LiveDisk, Record, Serving, datastore, sockets};
use crate::{output, recovery::record::Hypervisor};

const GRACE: Duration = Duration::from_secs(10);

/// Where it listens if nobody says: at any free port, for this machine.
const LISTEN: &str = "127.0.0.1:0";

/// The port of port mappers (RFC 1833).
const PORT_MAPPER: u16 = 111;

/// Addresses of the loopback that are tried for one that is free.
const TRIES: u64 = 16;

pub fn open(record: &Record, folder: &Path, disks: &[LiveDisk]) -> Result<Box<dyn Serving>> {
    let datastore = datastore::open(record, folder, disks)?;
    let (sockets, clients) = if is_for_qemu(record) { with_port_mapper(record)? } else { plain(record)? };
    let options = ExportOptions {
        name: Some(record.id.clone()),
        writable: true,
        // Who may connect may use the disks: a hypervisor is root there.
        ignore_permissions: true,
        log: Arc::new(output::note),
        ..ExportOptions::default()
    };
    let export = Export::new(datastore.root(), options)?;
    let count = sockets.nfs.len();
    let server = Server::start(Config { limits: Limits::default(), clients }, export, sockets)?;
    Ok(Box::new(Nfs { server, count, datastore, record: record.clone() }))
}

/// Whether QEMU of this host is the client.
fn is_for_qemu(record: &Record) -> bool {
    record.settings.is_some() && record.hypervisor == Hypervisor::Qemu
}

fn plain(record: &Record) -> Result<(Sockets, Clients)> {
    let (nfs, clients) = sockets(record, &record.wanted(LISTEN))?;
    Ok((Sockets { nfs, ..Sockets::default() }, clients))
}

/// With a port mapper at the same address.
fn with_port_mapper(record: &Record) -> Result<(Sockets, Clients)> {
    let at = |address: &str| -> Result<(Sockets, Clients)> {
        let (nfs, clients) = sockets(record, &[address.to_owned()])?;
        let mut portmap = Vec::new();
        for listener in &nfs {
            if let Address::Tcp(address) = listener.address() {
                portmap.extend(Listener::tcp(&SocketAddr::new(address.ip(), PORT_MAPPER).to_string())?);
            }
        }
        Ok((Sockets { nfs, portmap, ..Sockets::default() }, clients))
    };
    let addresses = match record.wanted("").into_iter().find(|address| !address.is_empty()) {
        Some(wanted) => vec![wanted],
        None => (0..TRIES).map(|number| own_address(record, number)).collect(),
    };
    let mut opened = Err(Error::invalid("there is no address to listen at"));
    for address in addresses {
        opened = at(&address);
        if opened.is_ok() {
            break;
        }
    }
    opened.map_err(|e| {
        e.context(
            "QEMU's NFS client asks a port mapper at port 111, which only root can open, and nobody while rpcbind has it \
             (end that, or leave out --through)",
        )
    })
}

/// An address of the loopback that others hardly use, with any free port: one for each session and number.
fn own_address(record: &Record, number: u64) -> String {
    // FNV-1a: spread is all that is needed.
    let hash = record
        .id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let [.., a, b, c] = (hash >> 20).wrapping_add(number).to_be_bytes();
    // 127.64.0.1 and above: never 127.0.0.x, never a broadcast address.
    format!("127.{}.{b}.{}:0", 64 + a % 64, 1 + c % 250)
}

struct Nfs {
    server: Server,
    /// Addresses for files; the port mapper's come after them.
    count: usize,
    datastore: Datastore,
    record: Record,
}

impl Serving for Nfs {
    fn addresses(&self) -> Vec<String> {
        self.server.addresses().iter().take(self.count).map(ToString::to_string).collect()
    }

    fn uri(&self, disk: &str) -> String {
        let address = self.server.addresses().first().map(ToString::to_string).unwrap_or_default();
        format!("nfs://{address}/{}/{}", self.record.id, datastore::file(&self.record, disk))
    }

    fn clients(&self) -> usize {
        self.server.connections()
    }

    fn end(self: Box<Self>) -> Result<()> {
        self.server.shutdown(GRACE);
        self.datastore.sync()
    }
}
