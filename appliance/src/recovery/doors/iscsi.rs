//! iSCSI: the session is a target, its disks are the target's logical units in their order.

use std::{path::Path, sync::Arc, time::Duration};

use blockdev::Result;
use exporters::{
    Disk,
    iscsi::{Config, Server, Target, Targets},
    scsi::{LogicalUnit, Options},
};

use super::{super::live::LiveDisk, Record, Serving, sockets};
use crate::output;

const GRACE: Duration = Duration::from_secs(10);

/// Where it listens if nobody says: at any free port, for this machine.
const LISTEN: &str = "127.0.0.1:0";

/// What the names of targets begin with.
const AUTHORITY: &str = "iqn.2026-01.io.github.revenant-backup";

/// The target's name. It stays for the life of the session.
pub fn target(record: &Record) -> String {
    let allowed = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' };
    format!("{AUTHORITY}:{}", record.id.to_lowercase().chars().take(150).map(allowed).collect::<String>())
}

pub fn open(record: &Record, folder: &Path, disks: &[LiveDisk]) -> Result<Box<dyn Serving>> {
    let (listeners, clients) = sockets(record, &record.wanted(LISTEN))?;
    let targets = Arc::new(Targets::new());
    let target = targets.insert(Target::new(target(record))?)?;
    for (lun, disk) in (0..).zip(disks) {
        // Reservations that outlive the power (APTPL) belong to what was written.
        let reservations = folder.join("overlays").join(format!("{}.reservations", disk.name));
        let options = Options {
            identity: disk.identity.clone().into_bytes(),
            reservations: Some(reservations),
            // VMware never flushes; QEMU does.
            write_through: record.settings.is_none(),
        };
        target.insert(lun, Arc::new(LogicalUnit::new(Disk::Writable(Arc::clone(&disk.disk)), options)?))?;
    }
    let config = Config { clients, report: Some(Box::new(output::note)), ..Config::default() };
    let server = Server::start(config, targets, listeners)?;
    let names = disks.iter().map(|disk| disk.name.clone()).collect();
    Ok(Box::new(Iscsi { server, name: self::target(record), names }))
}

struct Iscsi {
    server: Server,
    name: String,
    /// The disks in the order of their units.
    names: Vec<String>,
}

impl Serving for Iscsi {
    fn addresses(&self) -> Vec<String> {
        self.server.addresses().iter().map(ToString::to_string).collect()
    }

    fn uri(&self, disk: &str) -> String {
        let address = self.server.addresses().first().map(ToString::to_string).unwrap_or_default();
        let lun = self.names.iter().position(|name| name == disk).unwrap_or(0);
        format!("iscsi://{address}/{}/{lun}", self.name)
    }

    fn clients(&self) -> usize {
        self.server.connections()
    }

    fn end(self: Box<Self>) -> Result<()> {
        self.server.shutdown(GRACE)
    }
}
