//! NFS: the session's disks as flat VMDKs in a datastore that a hypervisor can write to.
//!
//! The datastore's folder, with what the hypervisor makes beside the disks, is in the session's folder; it goes with it.

use std::{path::Path, sync::Arc, time::Duration};

use blockdev::{Result, containers::Kind};
use exporters::nfs::{Config, Export, ExportOptions, Limits, Server, Sockets};
use vfs::providers::datastore::{Datastore, Device, DiskSource, Settings};

use super::{super::live::LiveDisk, Record, Serving, sockets};
use crate::output;

const GRACE: Duration = Duration::from_secs(10);

/// Where it listens if nobody says: at any free port, for this machine.
const LISTEN: &str = "127.0.0.1:0";

pub fn open(record: &Record, folder: &Path, disks: &[LiveDisk]) -> Result<Box<dyn Serving>> {
    let datastore = datastore(folder, disks, Kind::VmdkVmfs)?;
    let (nfs, clients) = sockets(record, &record.wanted(LISTEN))?;
    let options = ExportOptions {
        name: Some(record.id.clone()),
        writable: true,
        // Who may connect may use the disks: a hypervisor is root there.
        ignore_permissions: true,
        log: Arc::new(output::note),
        ..ExportOptions::default()
    };
    let export = Export::new(datastore.root(), options)?;
    let server =
        Server::start(Config { limits: Limits::default(), clients }, export, Sockets { nfs, ..Sockets::default() })?;
    Ok(Box::new(Nfs { server, datastore, name: record.id.clone() }))
}

/// The datastore of a session: its disks, and what clients write beside them.
pub fn datastore(folder: &Path, disks: &[LiveDisk], kind: Kind) -> Result<Datastore> {
    let source = |disk: &LiveDisk| DiskSource {
        name: disk.name.clone(),
        identity: disk.identity.clone().into_bytes(),
        device: Device::Writable(Arc::clone(&disk.disk)),
    };
    let sources: Vec<_> = disks.iter().map(source).collect();
    Datastore::open(&folder.join("datastore"), &sources, &Settings::new(kind))
}

struct Nfs {
    server: Server,
    datastore: Datastore,
    name: String,
}

impl Serving for Nfs {
    fn addresses(&self) -> Vec<String> {
        self.server.addresses().iter().map(ToString::to_string).collect()
    }

    fn uri(&self, disk: &str) -> String {
        let address = self.server.addresses().first().map(ToString::to_string).unwrap_or_default();
        format!("nfs://{address}/{}/{disk}-flat.vmdk", self.name)
    }

    fn clients(&self) -> usize {
        self.server.connections()
    }

    fn end(self: Box<Self>) -> Result<()> {
        self.server.shutdown(GRACE);
        self.datastore.sync()
    }
}
