//! `revenant recover`: what becomes of a restore point.

use std::path::PathBuf;

use blockdev::{Error, Result};
use clap::{Args, Subcommand};
use hv_drivers::{
    libvirt,
    machine::Firmware,
    settings::{Forward, Network, Settings},
};

use crate::{
    guest_fix,
    recovery::record::{DiskFormat, Door, Hypervisor},
};

/// What to recover, or what to do with a recovery.
#[derive(Debug, Args)]
#[command(subcommand_precedence_over_arg = true)]
pub struct Recover {
    #[command(subcommand)]
    pub action: Option<RecoverAction>,
    #[command(flatten)]
    pub start: RecoverStart,
    /// Folder of sessions [default: /var/lib/revenant; for others than root ~/.local/state/revenant]
    #[arg(long, global = true, value_name = "DIR", env = "REVENANT_STATE")]
    pub state: Option<PathBuf>,
}

/// How to recover.
#[derive(Debug, Args)]
pub struct RecoverStart {
    /// Machine, its newest point or the one whose time begins so; or a point in the tree (machines/..., images/...)
    #[arg(value_name = "MACHINE[@TIME]")]
    pub target: Option<String>,
    /// Who runs the machine: `none` (its disks are only served), `qemu` on this host, or `libvirt` (qemu:///system, or
    /// another by `libvirt:URI`)
    #[arg(long = "on", value_name = "HYPERVISOR", default_value = "none", value_parser = runner)]
    pub runner: Runner,
    /// Its network: `isolated` (it reaches nobody), `nat`, `none`, or `bridge:NAME` of this host
    #[arg(long, value_name = "NETWORK", default_value = "isolated", value_parser = network, help_heading = "Machine")]
    pub network: Network,
    /// Lead PORT of this host's loopback to a TCP port of the guest
    #[arg(long, value_name = "PORT:GUEST-PORT", value_parser = forward, help_heading = "Machine")]
    pub forward: Vec<Forward>,
    /// Keep the addresses of its network cards also where others are
    #[arg(long, help_heading = "Machine")]
    pub keep_macs: bool,
    /// Memory, whatever its description says
    #[arg(long, value_name = "MIB", help_heading = "Machine")]
    pub memory: Option<u64>,
    /// Processors, whatever its description says
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub cpus: Option<u32>,
    /// Firmware, whatever its description or its disks say: bios, uefi, secure-boot
    #[arg(long, value_name = "KIND", value_parser = firmware, help_heading = "Machine")]
    pub firmware: Option<Firmware>,
    /// Protocol by which the disks are served
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value = "nbd")]
    pub through: Door,
    /// What disks look like by NFS and SMB [default: vmdk by NFS, vhdx by SMB]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<DiskFormat>,
    /// By SMB: the only user who may connect, one of this machine [default: everybody who reaches the address]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// File whose first line is that user's password for the share [default: REVENANT_SMB_PASSWORD]
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// Serve at ADDRESS:PORT [default: NBD at a socket of this machine, others at a free port of the loopback]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Machines that may connect, where the protocol has no better way: addresses and networks such as 192.168.7.0/24
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Bytes that the overlay of each disk may take
    #[arg(long, value_name = "BYTES")]
    pub overlay_quota: Option<u64>,
    /// Mend the guest, in the overlay, for the devices of a hypervisor: drivers in its initramfs, lasting names of disks,
    /// drivers that Windows starts at boot (needs libguestfs-tools)
    #[arg(long, value_enum, value_name = "HYPERVISOR", num_args = 0..=1, require_equals = true, default_missing_value = "kvm")]
    pub fix_guest: Option<guest_fix::Target>,
    /// End by itself after so many minutes (see `renew`)
    #[arg(long, value_name = "MINUTES")]
    pub lease: Option<u64>,
    /// Only tell what it needs: volumes, whether they are at hand, how long it would take
    #[arg(long)]
    pub quote: bool,
}

/// Who runs a recovered machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runner {
    /// Nobody: its disks are served.
    Nobody,
    /// A hypervisor that is driven from here.
    Driven(Hypervisor),
}

impl RecoverStart {
    /// Who runs the machine, and how; `None` if nobody does here.
    ///
    /// # Errors
    ///
    /// When a network that leads nowhere is to have ports led into it.
    pub fn run(&self) -> Result<Option<(Hypervisor, Settings)>> {
        let Runner::Driven(hypervisor) = &self.runner else { return Ok(None) };
        let network = match (&self.network, self.forward.is_empty()) {
            (network, true) => network.clone(),
            (Network::Isolated(_), false) => Network::Isolated(self.forward.clone()),
            (Network::Nat(_), false) => Network::Nat(self.forward.clone()),
            (Network::None | Network::Bridge(_), false) => {
                return Err(Error::invalid("--forward leads into an isolated or a NAT network only"));
            }
        };
        let settings = Settings {
            network,
            keep_macs: self.keep_macs,
            memory_mib: self.memory,
            cpus: self.cpus,
            ..Settings::default()
        };
        Ok(Some((hypervisor.clone(), settings)))
    }
}

fn runner(text: &str) -> std::result::Result<Runner, String> {
    match (text, text.strip_prefix("libvirt:")) {
        ("none", _) => Ok(Runner::Nobody),
        ("qemu", _) => Ok(Runner::Driven(Hypervisor::Qemu)),
        ("libvirt", _) => Ok(Runner::Driven(Hypervisor::Libvirt(libvirt::SYSTEM.to_owned()))),
        (_, Some(uri)) => Ok(Runner::Driven(Hypervisor::Libvirt(uri.to_owned()))),
        _ => Err("it is `none`, `qemu`, `libvirt` or `libvirt:URI`".to_owned()),
    }
}

/// The network that a word names.
///
/// # Errors
///
/// When it names none, with what there is.
pub fn network(text: &str) -> std::result::Result<Network, String> {
    match (text, text.strip_prefix("bridge:")) {
        ("isolated", _) => Ok(Network::Isolated(Vec::new())),
        ("nat", _) => Ok(Network::Nat(Vec::new())),
        ("none", _) => Ok(Network::None),
        (_, Some(name)) if !name.is_empty() => Ok(Network::Bridge(name.to_owned())),
        _ => Err("it is `isolated`, `nat`, `none` or `bridge:NAME`".to_owned()),
    }
}

fn firmware(text: &str) -> std::result::Result<Firmware, String> {
    Firmware::of_name(text).ok_or_else(|| "it is bios, uefi or secure-boot".to_owned())
}

fn forward(text: &str) -> std::result::Result<Forward, String> {
    let ports = text.split_once(':').and_then(|(host, guest)| Some((host.parse().ok()?, guest.parse().ok()?)));
    ports.map(|(host, guest)| Forward { host, guest }).ok_or_else(|| "it is PORT:GUEST-PORT".to_owned())
}

/// What to do with a recovery.
#[derive(Debug, Subcommand)]
pub enum RecoverAction {
    /// List recoveries
    List {
        /// And machines that were recovered and have disks of their own now
        #[arg(long)]
        all: bool,
    },
    /// Show one
    Show {
        /// Its name
        id: String,
    },
    /// Start the machine of one again that has ended
    Start {
        /// Its name
        id: String,
    },
    /// End one, and remove all that it made
    Stop {
        /// Its name
        id: String,
        /// Ask its guest to shut down first, and give it so many seconds; a machine that has moved is only asked
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "120")]
        shutdown: Option<u64>,
    },
    /// Move the disks of its machine, while that runs, to files that stay; compare them, and end the recovery
    Migrate {
        /// Its name
        id: String,
        /// A folder for the disks' files
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Format of the files
        #[arg(long, value_name = "FORMAT", default_value = "qcow2", value_parser = ["qcow2", "raw"])]
        format: String,
    },
    /// Say how much the overlay of each disk may take from now on
    Quota {
        /// Its name
        id: String,
        /// Bytes [default: as many as there are]
        #[arg(value_name = "BYTES")]
        bytes: Option<u64>,
    },
    /// Take a machine that has moved off the list; it stays as it is
    Forget {
        /// Its name
        id: String,
    },
    /// Give one more time
    Renew {
        /// Its name
        id: String,
        /// Minutes from now [default: no end]
        #[arg(long, value_name = "MINUTES")]
        lease: Option<u64>,
    },
}
