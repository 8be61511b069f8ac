//! A machine in each hypervisor's own words, for those who define it there by hand.
//!
//! What is written is complete and can be run or imported as it is; what only the admin knows (storage, network, paths)
//! stands at its top or is told in the notes. Names come from a backup and end up in shells, XML and PowerShell: each
//! module quotes in its language, and nothing of a machine is ever part of a program.

mod hyperv;
mod libvirt;
mod proxmox;
mod vmx;

use std::{fmt, str::FromStr};

use crate::{
    Error, Result,
    machine::{Bus, Family, Machine},
};

/// A hypervisor's way to say what a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A shell script of Proxmox VE's `qm`, and the configuration that it makes.
    Proxmox,
    /// VMware's VMX file.
    Vmx,
    /// A PowerShell script of Hyper-V's cmdlets.
    HyperV,
    /// libvirt's domain XML.
    Libvirt,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proxmox => "proxmox",
            Self::Vmx => "vmx",
            Self::HyperV => "hyperv",
            Self::Libvirt => "libvirt",
        }
    }

    /// The extension of disk images that it takes: of a file of the tree.
    #[must_use]
    pub const fn disk_extension(self) -> &'static str {
        match self {
            Self::Proxmox | Self::Libvirt => "qcow2",
            Self::Vmx => "vmdk",
            Self::HyperV => "vhdx",
        }
    }
}

impl Kind {
    /// What stands before the names of disk images: libvirt takes whole paths only, and this is where its own are.
    #[must_use]
    pub const fn disk_folder(self) -> &'static str {
        match self {
            Self::Libvirt => "/var/lib/libvirt/images/",
            Self::Proxmox | Self::Vmx | Self::HyperV => "",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "proxmox" | "pve" => Ok(Self::Proxmox),
            "vmx" | "vmware" | "vsphere" => Ok(Self::Vmx),
            "hyperv" | "hyper-v" => Ok(Self::HyperV),
            "libvirt" | "kvm" => Ok(Self::Libvirt),
            _ => Err(Error::invalid(format!(
                "there is no configuration {name}; there are proxmox, vmx, hyperv and libvirt"
            ))),
        }
    }
}

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its text.
    pub text: String,
    /// What is other than it was, a sentence each; the text has them, too, where it can have comments.
    pub notes: Vec<String>,
}

/// `machine` as `kind` says it; `disks` are the files of its disks, in its order.
///
/// # Errors
///
/// `Invalid` when there are not as many files as disks, or the hypervisor has not so many places for disks.
pub fn write(kind: Kind, machine: &Machine, disks: &[String]) -> Result<Config> {
    if machine.disks.len() != disks.len() || disks.is_empty() {
        let (files, disks) = (disks.len(), machine.disks.len());
        return Err(Error::invalid(format!("{} has {disks} disks, and {files} files are given", machine.name)));
    }
    match kind {
        Kind::Proxmox => proxmox::write(machine, disks),
        Kind::Vmx => vmx::write(machine, disks),
        Kind::HyperV => Ok(hyperv::write(machine, disks)),
        Kind::Libvirt => libvirt::write(machine, disks),
    }
}

/// What a disk hangs on where only those in `there` are: what it was on, or what its guest surely has a driver for.
/// `usual` is for guests that carry drivers, `safe` for Windows, which has none but of old hardware.
pub(crate) fn bus(
    machine: &Machine,
    number: usize,
    there: &[Bus],
    usual: Bus,
    safe: Bus,
    notes: &mut Vec<String>,
) -> Bus {
    let was = machine.disks.get(number).and_then(|disk| machine.bus_of(disk));
    if let Some(bus) = was.filter(|bus| there.contains(bus)) {
        return bus;
    }
    let bus = if machine.family() == Family::Windows { safe } else { usual };
    if let Some(was) = was {
        let needs = match machine.family() {
            Family::Windows => "Windows has its driver",
            Family::Unix => "its driver has to be in the guest's initramfs",
        };
        notes.push(format!("disk {number} is on {bus} instead of {was}: {needs}"));
    }
    bus
}

/// Places on controllers: the next free one of each kind, of `most`.
#[derive(Debug, Default)]
pub(crate) struct Places(std::collections::BTreeMap<&'static str, u32>);

impl Places {
    /// The next one.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn next(&mut self, kind: &'static str, most: u32) -> Result<u32> {
        let next = self.0.entry(kind).or_default();
        if *next >= most {
            return Err(Error::invalid(format!(
                "the machine has more disks on {kind} than the {most} that there can be"
            )));
        }
        *next += 1;
        Ok(*next - 1)
    }
}

/// The name as it may be a file's and a host's: letters, digits, hyphens and dots.
fn plain_name(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let plain = plain.trim_matches(['-', '.']).chars().take(60).collect::<String>();
    if plain.is_empty() { "machine".to_owned() } else { plain }
}
