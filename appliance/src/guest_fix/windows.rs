//! Windows: drivers that are there are started at boot; what it needs besides is said.
//!
//! The registry's hive SYSTEM is changed by `hivexregedit` on a copy, which then replaces it. That is only done where the
//! guest was shut down: a hive with changes in its logs would lose them, and a hibernated system must not be touched.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use blockdev::{Error, ReadAt, Result, file::HostFile};
use guestfs::os::{System, registry::Hive};
use tempfile::NamedTempFile;
use vfs::node::Node;

use super::{Change, Edit, Plan, Target, files::Files};

const CONFIG: &str = "/Windows/System32/config";
const HIVE_MAX: u64 = 512 << 20;

impl Target {
    /// Drivers that come with Windows and reach a disk there.
    const fn services(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["viostor", "vioscsi", "storahci", "stornvme", "intelide", "atapi", "pciide"],
            Self::Vmware => &["pvscsi", "LSI_SAS", "storahci", "stornvme", "intelide", "atapi"],
            Self::Hyperv => &["vmbus", "storvsc", "storflt", "intelide", "atapi"],
        }
    }

    const fn advice(self) -> &'static str {
        match self {
            Self::Kvm => {
                "without VirtIO drivers start it on a SATA controller (q35) with an e1000e network card, then install \
                 virtio-win"
            }
            Self::Vmware => {
                "start it on an LSI Logic SAS or SATA controller with an e1000e network card, then install VMware Tools"
            }
            Self::Hyperv => "generation 1 for BIOS, generation 2 for UEFI disks: all drivers come with Windows",
        }
    }
}

/// What a Windows guest needs.
///
/// # Errors
///
/// When its registry cannot be read.
pub fn plan(root: &Files, system: &System, target: Target) -> Result<Plan> {
    let mut plan = Plan::default();
    plan.notes.push(format!("{}: {}", system.name, target.advice()));
    plan.notes.push("a new network card gets its address by DHCP: a fixed one stays with the old card".to_owned());
    let Some((path, file)) = root.open(&format!("{CONFIG}/SYSTEM"), HIVE_MAX)? else {
        plan.notes.push(format!("{CONFIG}/SYSTEM is not found: nothing is changed"));
        return Ok(plan);
    };
    if is_hibernated(root)? {
        plan.notes.push(
            "it is hibernated (or fast startup is on): nothing is changed; shut it down before the backup".to_owned(),
        );
        return Ok(plan);
    }
    let copy = copied(file.as_ref())?;
    let hive = Hive::open(Arc::new(HostFile::open(copy.path())?), &[])?;
    if !hive.notes().is_empty() {
        plan.notes.push(format!(
            "{path} was not written out when the backup was made ({}): nothing is changed",
            hive.notes().join("; ")
        ));
        return Ok(plan);
    }
    let current = hive.value("Select", "Current")?.and_then(|v| v.number()).unwrap_or(1);
    let set = format!("ControlSet{current:03}");
    let mut text = "Windows Registry Editor Version 5.00\n".to_owned();
    let mut started = Vec::new();
    for service in target.services() {
        let key = format!(r"{set}\Services\{service}");
        let Some(start) = hive.value(&key, "Start")?.and_then(|v| v.number()) else { continue };
        let is_overridden = hive.key(&format!(r"{key}\StartOverride"))?.is_some();
        if start != 0 || is_overridden {
            text.push_str(&format!("\n[\\{key}]\n\"Start\"=dword:00000000\n"));
            if is_overridden {
                text.push_str(&format!("\n[-\\{key}\\StartOverride]\n"));
            }
            started.push(*service);
        }
    }
    if !started.is_empty() {
        let why = format!("{path}: started at boot: {}", started.join(", "));
        plan.edits.push(Edit { path, change: Change::Content(merged(copy.path(), &text)?), why });
    }
    Ok(plan)
}

/// The hive, with a text of `regedit` merged into it.
fn merged(hive: &Path, text: &str) -> Result<Vec<u8>> {
    let failed = |e| Error::io("cannot change a registry hive by hivexregedit", e);
    let mut command = Command::new("hivexregedit");
    command.arg("--merge").arg(hive).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|e| Error::io("hivexregedit cannot be run; install libwin-hivex-perl, which changes registries", e))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).map_err(failed)?;
    }
    let out = child.wait_with_output().map_err(failed)?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(Error::invalid(format!("hivexregedit: {}", said.trim())));
    }
    std::fs::read(hive).map_err(failed)
}

/// Whether the system's state is in `hiberfil.sys`: it begins with `hibr` then.
fn is_hibernated(root: &Files) -> Result<bool> {
    let Some((_, Node::File(file))) = root.find("/hiberfil.sys")? else { return Ok(false) };
    let mut magic = [0; 4];
    let n = file.open()?.read_at(&mut magic, 0)?;
    Ok(n == 4 && magic.eq_ignore_ascii_case(b"hibr"))
}

/// A file of the guest as one of this machine.
fn copied(file: &dyn ReadAt) -> Result<NamedTempFile> {
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    let copy = NamedTempFile::new().and_then(|copy| std::fs::write(copy.path(), &bytes).map(|()| copy));
    copy.map_err(|e| Error::io("cannot copy a registry hive into the folder for temporary files", e))
}
