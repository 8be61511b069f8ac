//! What a session is, as it is written down: enough to build it again after a crash, and to clean it up.
//!
//! A record is written before anything that it names is made. So whatever a crash leaves behind has a name in a record,
//! and stopping the session again removes it.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use blockdev::Result;
use hv_drivers::{
    driver::{Driver, Target},
    libvirt::Libvirt,
    machine::Firmware,
    qemu::Qemu,
    settings::Settings,
};
use serde::{Deserialize, Serialize};

use super::doors::reach::Reach;
use crate::{cli::Sources, guest_fix, smb::Login};

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
    /// It is over; its machine has disks of its own now, and is listed until it is forgotten.
    Moved,
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
            Self::Moved => "moved",
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
    /// A datastore by SMB
    Smb,
}

/// What disks look like in a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// A descriptor and a flat extent
    Vmdk,
    /// A fixed VHDX
    Vhdx,
    /// The disk itself
    Raw,
}

/// Who runs a session's machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hypervisor {
    /// QEMU on this host.
    #[default]
    Qemu,
    /// The libvirt at this URI.
    Libvirt(String),
}

impl Hypervisor {
    /// What people call it.
    pub fn label(&self) -> &str {
        match self {
            Self::Qemu => "this host's QEMU",
            Self::Libvirt(uri) => uri,
        }
    }

    /// Its driver, for machines that are started with `settings`.
    ///
    /// # Errors
    ///
    /// When there is no such hypervisor.
    pub fn driver(&self, settings: Settings) -> Result<Box<dyn Driver>> {
        Ok(match self {
            Self::Qemu => Box::new(Qemu { settings }),
            Self::Libvirt(uri) => Box::new(Libvirt::new(uri, settings)?),
        })
    }
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
    /// What disks look like, if the door is a datastore; `None`: as its clients like them best.
    #[serde(default)]
    pub format: Option<DiskFormat>,
    /// Who may use a share; `None`: everybody who reaches it.
    #[serde(default)]
    pub login: Option<Login>,
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
    /// How the machine is run here; `None`: somebody else runs it.
    #[serde(alias = "qemu")]
    pub settings: Option<Settings>,
    /// Who runs it here.
    #[serde(default)]
    pub hypervisor: Hypervisor,
    /// How its hypervisor reaches the disks, when it is another user of this host.
    #[serde(default)]
    pub reach: Option<Reach>,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As versions before libvirt, SMB and formats wrote it.
    const EARLIER: &str = r#"{"id":"web01-1","machine":"web01","point":"machines/web01/@2026-11-21T11:38:18",
        "state":"running","problem":null,"created":1795294767,"lease_until":null,
        "sources":{"volumes":["/vol"],"catalog":null,"keys":[],"volume_keys":null,"unlock":[],"images":[],
            "cache":"/cache","integrity":"once","config":null,"json":false,"quiet":true},
        "door":"nbd","listen":null,"allow":[],"addresses":["unix:/st/sessions/web01-1/nbd.sock"],
        "disks":[{"name":"disk0","source":"machines/web01/@2026-11-21T11:38:18/disks/disk0.raw","size":67108864,
            "uri":"nbd+unix:///disk0?socket=/st/sessions/web01-1/nbd.sock"}],
        "quota":null,"fix":null,"fixed":false,
        "qemu":{"program":null,"accelerator":"auto","network":"none","keep_macs":false,"display":"vnc-socket",
            "memory_mib":64,"cpus":null,"throwaway":false,"paused":false,"reconnect":{"secs":300,"nanos":0}},
        "targets":[],"moved":false}"#;

    #[test]
    fn records_of_earlier_versions() {
        let record: Record = serde_json::from_str(EARLIER).expect("a record");
        assert_eq!(record.settings.as_ref().and_then(|settings| settings.memory_mib), Some(64));
        assert_eq!((&record.hypervisor, record.format), (&Hypervisor::Qemu, None));
        assert!(record.reach.is_none() && record.login.is_none());
        let again: Record = serde_json::from_str(&serde_json::to_string(&record).expect("text")).expect("a record");
        assert_eq!(again.settings, record.settings);
    }
}
