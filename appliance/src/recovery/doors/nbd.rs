//! NBD: each disk is an export of its name, at a Unix socket in the session's folder and where else it was asked for.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use blockdev::Result;
use exporters::nbd::{self, Config, Export, Exports, Listener, Server};

use super::{
    super::{live::LiveDisk, record::Door},
    Record, Serving, sockets,
};
use crate::output;

/// How long clients may take for replies when the door is closed.
const GRACE: Duration = Duration::from_secs(10);

/// The socket for this machine, in a session's folder.
pub fn socket(folder: &Path) -> PathBuf {
    folder.join("nbd.sock")
}

pub fn open(record: &Record, folder: &Path, disks: &[LiveDisk]) -> Result<Box<dyn Serving>> {
    let exports = Arc::new(Exports::new());
    for disk in disks {
        let mut export = Export::new(disk.name.clone(), nbd::Disk::Writable(Arc::clone(&disk.disk)));
        export.description = disk.source.label.chars().take(1000).collect();
        exports.insert(export)?;
    }
    let wanted = if record.door == Door::Nbd { record.wanted("") } else { Vec::new() };
    let wanted: Vec<_> = wanted.into_iter().filter(|address| !address.is_empty()).collect();
    let (tcp, clients) = sockets(record, &wanted)?;
    let mut listeners = Vec::new();
    if let Some(reach) = &record.reach {
        listeners.push(reach.listen()?);
    }
    listeners.push(Listener::unix(&socket(folder))?);
    listeners.extend(tcp);
    let config = Config { clients, report: Some(Box::new(output::note)), ..Config::default() };
    Ok(Box::new(Nbd(Server::start(config, exports, listeners)?)))
}

struct Nbd(Server);

impl Serving for Nbd {
    fn addresses(&self) -> Vec<String> {
        self.0.addresses().iter().map(ToString::to_string).collect()
    }

    fn uri(&self, disk: &str) -> String {
        // Who asked for an address wants that one.
        self.0.addresses().last().map(|address| nbd::uri(address, disk)).unwrap_or_default()
    }

    fn clients(&self) -> usize {
        self.0.connections()
    }

    fn end(self: Box<Self>) -> Result<()> {
        self.0.shutdown(GRACE)
    }
}
