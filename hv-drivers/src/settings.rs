//! How a machine is started, apart from what it is, whoever runs it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use blockdev::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::{driver::DiskSource, durable, machine::Machine};

/// The longest record that is read, in bytes.
const SPEC_MAX: u64 = 4 << 20;

/// What a machine is started with; kept in its folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// What it is.
    pub machine: Machine,
    /// Where its disks are, in its order.
    pub disks: Vec<DiskSource>,
    /// How it is started.
    pub settings: Settings,
}

impl Spec {
    /// The one in the file `path`.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none, `Damaged` when it cannot be understood.
    pub fn read(path: &Path) -> Result<Self> {
        let text = durable::read(path, SPEC_MAX)?;
        let text = text.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no {}", path.display())))?;
        serde_json::from_slice(&text).map_err(|e| Error::damaged(format!("{}: {e}", path.display())))
    }

    /// Writes it; it is durable then.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self);
        let text = text.map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
        durable::write(path, &text).map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
    }
}

/// How a machine is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// QEMU's program; `None`: `qemu-system-x86_64` on the path.
    pub program: Option<PathBuf>,
    /// What runs its processors.
    pub accelerator: Accelerator,
    /// What its network cards are connected to.
    pub network: Network,
    /// Its cards keep their addresses also in a network that others are in.
    pub keep_macs: bool,
    /// Where its screen is shown.
    pub display: Display,
    /// Memory in MiB, whatever its description says.
    pub memory_mib: Option<u64>,
    /// Processors, whatever its description says.
    pub cpus: Option<u32>,
    /// It is thrown away afterwards: what it writes need not survive, flushes are left out.
    pub throwaway: bool,
    /// It is started standing still; [`LifeCycle::resume`](crate::driver::LifeCycle::resume) lets it go.
    pub paused: bool,
    /// How long requests wait for a server that is gone before the guest is paused.
    pub reconnect: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            program: None,
            accelerator: Accelerator::Auto,
            network: Network::default(),
            keep_macs: false,
            display: Display::VncSocket,
            memory_mib: None,
            cpus: None,
            throwaway: false,
            paused: false,
            reconnect: Duration::from_secs(300),
        }
    }
}

/// What runs a guest's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// KVM where it works, else emulation.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// Emulation.
    Tcg,
}

/// What network cards are connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The machine has no network cards.
    None,
    /// Each card is in a network of its own with nothing else in it: the guest gets an address (DHCP) and reaches
    /// nobody. Ports of this host can lead to it.
    Isolated(Vec<Forward>),
    /// Cards are behind this host's address: the guest reaches what this host reaches.
    Nat(Vec<Forward>),
    /// Cards are on a bridge of this host, through QEMU's bridge helper.
    Bridge(String),
}

impl Default for Network {
    fn default() -> Self {
        Self::Isolated(Vec::new())
    }
}

/// A port of this host's loopback that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The port of this host.
    pub host: u16,
    /// The guest's port (TCP).
    pub guest: u16,
}

/// Where a screen is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Display {
    /// By VNC at the socket `vnc.sock` in the machine's folder.
    #[default]
    VncSocket,
    /// By VNC at this port of the loopback, 5900 or above.
    VncPort(u16),
    /// Nowhere; it can be photographed all the same.
    None,
}
