//! Guest fixes: what a guest needs to start under another hypervisor's devices.
//!
//! Nothing of the guest is run to find out or to mend. Its files are read through the tree (`files`); what has to be
//! changed is a list of [`Edit`]s, made by `linux` or `windows`; and those are written into the overlay of a recovery, or
//! into a converted image, by libguestfs, whose own small machine mounts the guest's filesystems (`apply`). The backup is
//! never touched.
//!
//! A Linux guest is not made to rebuild its initramfs, which takes minutes under emulation and runs its programs. The
//! missing modules, from the guest's own `/lib/modules`, are appended as a second archive (`initramfs`), which every
//! kernel unpacks over the first.

pub mod apply;
mod devices;
mod files;
mod initramfs;
mod linux;
mod modules;
mod windows;

use std::sync::Arc;

use blockdev::{Error, Result, encrypted::Secrets};
use guestfs::os::{self, Family, System};
use serde::{Deserialize, Serialize};
use vfs::node::Node;

use crate::commands::{Opened, inspect, source::DiskSource};

/// The hypervisor whose devices the guest will see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// QEMU and KVM, Proxmox, Nutanix, CloudStack, oVirt: virtio
    Kvm,
    /// VMware: PVSCSI, LSI Logic, AHCI
    Vmware,
    /// Hyper-V: VMBus
    Hyperv,
}

/// A change of a file of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Absolute, as the guest sees it.
    pub path: String,
    pub change: Change,
    /// For people: what and why.
    pub why: String,
}

/// What becomes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has this content, whether it was there or not.
    Content(Vec<u8>),
    /// From this offset on it has these bytes.
    From(u64, Vec<u8>),
}

/// Where a filesystem is mounted to reach the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// As libguestfs calls the device.
    pub device: String,
    /// Absolute.
    pub path: String,
    /// Subvolume of btrfs; empty for none.
    pub subvolume: String,
}

/// What is to be done, and what an operator has to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub edits: Vec<Edit>,
    pub mounts: Vec<Mount>,
    pub notes: Vec<String>,
}

/// What the guest on `disks` needs under `target`. `files` is the folder of the tree with the guest's own view of its
/// files (`machines/NAME/@TIME/files`).
///
/// # Errors
///
/// When no system is found on the disks, or its files cannot be read.
pub fn plan(opened: &Opened, files: &str, disks: &[DiskSource], secrets: &Secrets, target: Target) -> Result<Plan> {
    let survey = inspect::survey(disks, secrets);
    let system = os::examine(&survey)
        .system
        .ok_or_else(|| Error::not_found("no operating system is found on these disks: nothing can be fixed"))?;
    let names = devices::Devices::new(disks, &survey);
    let mut plan = match system.family {
        Family::Linux => {
            let root = root(opened, &format!("{files}/root"))?;
            linux::plan(&root, &system, &names, target)?
        }
        Family::Windows => {
            let letter = system_drive(&system);
            let root = root(opened, &format!("{files}/{letter}"))?;
            windows::plan(&root, &system, target)?
        }
        other => {
            return Err(Error::unsupported(format!(
                "there are no fixes for {} guests ({})",
                other.name(),
                system.name
            )));
        }
    };
    plan.mounts = names.mounts(&system, &survey, &mut plan.notes);
    Ok(plan)
}

fn root(opened: &Opened, path: &str) -> Result<files::Files> {
    match opened.resolve(path.as_ref())? {
        Node::Dir(dir) => Ok(files::Files::new(Arc::clone(&dir))),
        _ => Err(Error::not_found(format!("{path} is no folder"))),
    }
}

/// The drive that Windows runs from.
fn system_drive(system: &System) -> String {
    let drives = system.mounts.iter().map(|m| String::from_utf8_lossy(&m.path).into_owned());
    let mut drives: Vec<_> = drives.filter(|d| d.ends_with(':')).collect();
    drives.sort_by_key(|d| d != "C:");
    drives.into_iter().next().unwrap_or_else(|| "C:".to_owned())
}
