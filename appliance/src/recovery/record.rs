//! What a session is, as it is written down: enough to build it again after a crash, and to clean it up.
//!
//! A record is written before anything that it names is made. So whatever a crash leaves behind has a name in a record,
//! and stopping the session again removes it.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use hv_drivers::{driver::Target, machine::Firmware, qemu::Settings};
use serde::{Deserialize, Serialize};

use crate::{cli::Sources, guest_fix};

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being made; after a crash it is made on.
    Preparing,
    /// Its disks are served; there is no machine, or it was not started.
    Ready,
    /// Its machine was started.
    Running,
    /// Its machine has ended, by itself or not; its disks are served, and it can be started again.
    Off,
    /// Its disks are being moved to where they stay.
    Migrating,
    /// It is being removed; after a crash it is removed on.
    Stopping,
    /// It could not be made, or broke. What is left is removed by stopping it.
    Failed,
}

impl State {
    /// Whether its disks are to be served.
    pub const fn is_served(self) -> bool {
        matches!(self, Self::Preparing | Self::Ready | Self::Running | Self::Off | Self::Migrating)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Off => "off",
            Self::Migrating => "migrating",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        }
    }
}

/// The protocol by which a hypervisor gets the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// Network block devices
    Nbd,
    /// iSCSI, each disk a logical unit
    Iscsi,
    /// A datastore by NFS version 3
    Nfs,
}

/// One recovery in progress.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its name: the machine's and a number that is used once.
    pub id: String,
    pub machine: String,
    /// The restore point in the tree, or an image.
    pub point: String,
    pub state: State,
    /// What went wrong, until something else is done with it.
    pub problem: Option<String>,
    /// Seconds since 1970.
    pub created: u64,
    /// When it ends by itself.
    pub lease_until: Option<u64>,
    /// Where the restore point is read from.
    pub sources: Sources,
    pub door: Door,
    /// Where else than in the session's folder the door is to be: ADDRESS:PORT.
    pub listen: Option<String>,
    /// Machines that may connect: addresses and networks; empty: as the door has it.
    pub allow: Vec<String>,
    /// Where the door is, once it was opened: there it is opened again.
    pub addresses: Vec<String>,
    pub disks: Vec<DiskRecord>,
    /// Bytes that each overlay may take.
    pub quota: Option<u64>,
    /// The hypervisor for whose devices the guest is mended.
    pub fix: Option<guest_fix::Target>,
    /// It has been.
    pub fixed: bool,
    /// How QEMU runs the machine; `None`: somebody else does.
    pub qemu: Option<Settings>,
    /// Its firmware, whatever its description says.
    #[serde(default)]
    pub firmware: Option<Firmware>,
    /// Where its disks are being moved.
    pub targets: Vec<Target>,
    /// They have been, or the machine runs from there; it stays when the session ends.
    pub moved: bool,
}

/// A disk of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    pub name: String,
    /// The disk in the tree.
    pub source: String,
    pub size: u64,
    /// What clients find it by.
    pub uri: Option<String>,
}

impl Record {
    /// The name of a disk's overlay in the session's folder.
    pub fn overlay(&self, folder: &Path, disk: &DiskRecord) -> PathBuf {
        folder.join("overlays").join(format!("{}.qcow2", disk.name))
    }

    /// Where the door is to listen on the network: where it was before, or where it was asked for, or else at `default`.
    pub fn wanted(&self, default: &str) -> Vec<String> {
        let was: Vec<_> = self.addresses.iter().filter(|a| !a.starts_with("unix:")).cloned().collect();
        if !was.is_empty() {
            return was;
        }
        vec![self.listen.clone().unwrap_or_else(|| default.to_owned())]
    }

    pub fn is_overdue(&self) -> bool {
        self.lease_until.is_some_and(|until| until < now())
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
