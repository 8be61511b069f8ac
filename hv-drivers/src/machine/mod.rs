//! `machine.json`: what a machine is made of, in words that every hypervisor can be told in.
//!
//! It lies beside the disks in a backup and is what a recovery, a conversion and a native configuration start from. It
//! was written by whoever made the backup, years ago perhaps, or by hand: so reading is lenient (`read`), knows the
//! names that other tools use, bounds every number and leaves out what it cannot understand. Writing uses one form:
//!
//! ```json
//! {
//!   "name": "web01",
//!   "uuid": "4f1b…",
//!   "firmware": "uefi",
//!   "machine_type": "q35",
//!   "sockets": 1, "cores": 4, "threads": 1,
//!   "memory_mib": 8192,
//!   "controllers": [{ "id": "scsi0", "kind": "virtio-scsi" }],
//!   "disks": [{ "name": "disk0", "file": "disk0.0003-inc.qcow2", "controller": "scsi0", "unit": 0, "boot": 1 }],
//!   "nics": [{ "mac": "52:54:00:12:34:56", "model": "virtio", "network": "vmbr0" }],
//!   "guest_os": "debian12",
//!   "source": { "hypervisor": "proxmox", "id": "101", "version": "9.1" }
//! }
//! ```

mod hardware;
mod read;

use serde::Serialize;

pub use self::hardware::{Bus, Chipset, Firmware, Mac, NicModel};
use crate::{Error, Result};

/// Its name beside the disks.
pub const FILE_NAME: &str = "machine.json";
/// The longest `machine.json` that is read, in bytes.
pub const LEN_MAX: u64 = 1 << 20;

/// What a machine has about which nothing is known, in MiB.
pub const MEMORY_MIB: u64 = 4096;
/// Processors of a machine about which nothing is known.
pub const CPUS: u32 = 2;

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Its name, for people; at most 256 characters, none of them a control character.
    pub name: String,
    /// Its SMBIOS UUID, lower case with hyphens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The firmware that starts it; `None`: not told, the disks have to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// The kind of board; `None`: any.
    #[serde(rename = "machine_type", skip_serializing_if = "Option::is_none")]
    pub chipset: Option<Chipset>,
    /// Processors.
    #[serde(flatten)]
    pub cpus: Cpus,
    /// Memory in MiB, at least 1.
    pub memory_mib: u64,
    /// Controllers; a disk names the one that it hangs on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<Controller>,
    /// Disks, the first to be booted from first unless they say otherwise.
    pub disks: Vec<Disk>,
    /// Network cards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// The guest's system as its hypervisor called it: `debian12-64`, `l26`, `win11`, `windows`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_os: Option<String>,
    /// Where it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// Processors: all of them are the product of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cpus {
    /// Sockets.
    pub sockets: u32,
    /// Cores of each socket.
    pub cores: u32,
    /// Threads of each core.
    pub threads: u32,
}

impl Cpus {
    /// How many processors the guest sees.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.sockets.saturating_mul(self.cores).saturating_mul(self.threads)
    }
}

/// A controller of disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Controller {
    /// What disks call it: `scsi0`.
    pub id: String,
    /// What it is.
    pub kind: Bus,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Disk {
    /// Its name in the tree: `disk0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The file beside the description that has it, or its newest state when the description was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The controller it hangs on, by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// What it hangs on, where no controller is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<Bus>,
    /// Its place on the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<u32>,
    /// Its place among what is booted from, 1 first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<u32>,
    /// The serial number that the guest sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its size in bytes, where it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Nic {
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// What it is; `None`: what suits the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<NicModel>,
    /// The network it was in, as its hypervisor called it: `vmbr0`, `VM Network`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// Where a machine ran.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Source {
    /// The kind of hypervisor: `qemu`, `libvirt`, `proxmox`, `vsphere`, `hyperv`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    /// What it called the machine: a number, a managed object id, a GUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What a guest's system is as far as it decides which devices it can be started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Has drivers for virtio in its kernel or initramfs, mostly.
    Unix,
    /// Has none, and takes the clock for local time.
    Windows,
}

impl Machine {
    /// A machine of which only the name and the disks are known.
    #[must_use]
    pub fn new(name: &str, disks: impl IntoIterator<Item = Disk>) -> Self {
        Self {
            name: read::text_of(name).unwrap_or_else(|| "machine".to_owned()),
            uuid: None,
            firmware: None,
            chipset: None,
            cpus: Cpus { sockets: 1, cores: CPUS, threads: 1 },
            memory_mib: MEMORY_MIB,
            controllers: Vec::new(),
            disks: disks.into_iter().collect(),
            nics: Vec::new(),
            guest_os: None,
            source: None,
        }
    }

    /// The description in `text`. What is missing, odd or out of bounds is as if it were not there.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is no JSON object, or longer than [`LEN_MAX`].
    pub fn read(text: &[u8]) -> Result<Self> {
        let no = |why: &str| Error::damaged(format!("{FILE_NAME}: {why}"));
        if text.len() as u64 > LEN_MAX {
            return Err(no("it is longer than a description can be"));
        }
        let value: serde_json::Value = serde_json::from_slice(text).map_err(|e| no(&e.to_string()))?;
        read::machine(&value).ok_or_else(|| no("it is no object"))
    }

    /// Its text, with a newline at its end.
    #[must_use]
    pub fn write(&self) -> String {
        // Text keys and numbers: nothing in it can fail to be written.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// What the guest is, as far as it is told.
    #[must_use]
    pub fn family(&self) -> Family {
        let os = self.guest_os.as_deref().unwrap_or_default().to_ascii_lowercase();
        // Proxmox: win11, w2k19, wxp, wvista; VMware: windows2019srv-64, winNetStandardGuest.
        let is_windows =
            os.contains("windows") || (os.contains("win") && !os.contains("darwin")) || os.starts_with("w2k");
        if is_windows || os == "wxp" || os == "wvista" { Family::Windows } else { Family::Unix }
    }

    /// What `disk` hangs on, where that is told.
    #[must_use]
    pub fn bus_of(&self, disk: &Disk) -> Option<Bus> {
        let named = disk.controller.as_ref().and_then(|id| self.controllers.iter().find(|c| c.id == *id));
        named.map(|c| c.kind).or(disk.bus)
    }

    /// The order in which its disks are booted from: indexes into [`disks`](Self::disks).
    #[must_use]
    pub fn boot_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.disks.len()).collect();
        order.sort_by_key(|n| self.disks.get(*n).and_then(|d| d.boot).unwrap_or(u32::MAX));
        order
    }
}

impl<'de> serde::Deserialize<'de> for Machine {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        read::machine(&value).ok_or_else(|| serde::de::Error::custom("a machine is an object"))
    }
}
