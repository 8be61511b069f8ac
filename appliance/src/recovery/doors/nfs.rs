//! NFS: the session's disks in a datastore, by default as flat VMDKs.

use std::{path::Path, sync::Arc, time::Duration};

use blockdev::Result;
use exporters::nfs::{Config, Export, ExportOptions, Limits, Server, Sockets};
use vfs::providers::datastore::Datastore;

use super::{super::live::LiveDisk, Record, Serving, datastore, sockets};
use crate::output;

const GRACE: Duration = Duration::from_secs(10);

/// Where it listens if nobody says: at any free port, for this machine.
const LISTEN: &str = "127.0.0.1:0";

pub fn open(record: &Record, folder: &Path, disks: &[LiveDisk]) -> Result<Box<dyn Serving>> {
    let datastore = datastore::open(record, folder, disks)?;
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
    Ok(Box::new(Nfs { server, datastore, record: record.clone() }))
}

struct Nfs {
    server: Server,
    datastore: Datastore,
    record: Record,
}

impl Serving for Nfs {
    fn addresses(&self) -> Vec<String> {
        self.server.addresses().iter().map(ToString::to_string).collect()
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
