//! NBD: each disk is an export of its name, at a Unix socket in the session's folder and where else it was asked for.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use blockdev::Result;
use exporters::nbd::{self, Config, Export, Exports, Limits, Listener, Server};

use super::{
    super::{live::LiveDisk, record::Door},
    Record, Serving,
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
    let mut listeners = vec![Listener::unix(&socket(folder))?];
    if record.door == Door::Nbd {
        for address in record.wanted("").iter().filter(|a| !a.is_empty()) {
            listeners.extend(Listener::tcp(address)?);
        }
    }
    let config = Config { limits: Limits::default(), tls: None, report: Some(Box::new(output::note)) };
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
