//! Writing a plan's edits into disks, by libguestfs: a small virtual machine of its own mounts the guest's filesystems, so
//! that this machine's kernel never does.

use std::{fs, path::Path, process::Command};

use blockdev::{Error, Result};

use super::{Change, Plan};

/// Where a disk is: what `guestfish -a` takes.
pub struct Place {
    /// A file, or `nbd:///NAME?socket=PATH`.
    pub at: String,
    /// `raw` or `qcow2`.
    pub format: &'static str,
}

/// Writes the edits into the disks at `places`, in the order in which they were given for the plan.
///
/// # Errors
///
/// When libguestfs is not there, or cannot write; some edits may be written then.
pub fn apply(plan: &Plan, places: &[Place]) -> Result<()> {
    if plan.edits.is_empty() {
        return Ok(());
    }
    let failed = |e| Error::io("cannot prepare the guest's fixes", e);
    let folder = tempfile::tempdir().map_err(failed)?;
    let script = script(plan, folder.path()).map_err(failed)?;
    let mut command = Command::new("guestfish");
    for Place { at, format } in places {
        command.arg(format!("--format={format}")).arg("-a").arg(at);
    }
    command.arg("--file").arg(&script).env("LIBGUESTFS_BACKEND", "direct").env("LC_ALL", "C");
    if std::env::var_os("LIBGUESTFS_BACKEND_SETTINGS").is_none() && !kvm_works() {
        command.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
    }
    let out = command.output().map_err(|e| {
        Error::io("guestfish cannot be run; install libguestfs-tools, which writes into guests' filesystems", e)
    })?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let said: Vec<_> = said.lines().filter(|l| !l.trim().is_empty()).take(3).collect();
        return Err(Error::invalid(format!("the guest's fixes cannot be written: {}", said.join("; "))));
    }
    Ok(())
}

/// The script: mount what is needed, those that hold others first, and upload.
fn script(plan: &Plan, folder: &Path) -> std::io::Result<std::path::PathBuf> {
    let mut lines = vec!["run".to_owned()];
    let mut mounts = plan.mounts.clone();
    mounts.sort_by_key(|mount| mount.path.len());
    for mount in &mounts {
        let options = if mount.subvolume.is_empty() { String::new() } else { format!("subvol={}", mount.subvolume) };
        // What is not the root may be missing: an edit on it fails then, and says so.
        let may_fail = if mount.path == "/" { "" } else { "-" };
        let [options, device, path] = [&options, &mount.device, &mount.path].map(|word| quoted(word));
        lines.push(format!("{may_fail}mount-options {options} {device} {path}"));
    }
    for (number, edit) in plan.edits.iter().enumerate() {
        let local = folder.join(number.to_string());
        let [from, to] = [&*local.to_string_lossy(), edit.path.as_str()].map(quoted);
        match &edit.change {
            Change::Content(bytes) => {
                fs::write(&local, bytes)?;
                lines.push(format!("upload {from} {to}"));
            }
            Change::From(offset, bytes) => {
                fs::write(&local, bytes)?;
                lines.push(format!("upload-offset {from} {to} {offset}"));
            }
        }
    }
    lines.push("umount-all".to_owned());
    lines.push("shutdown".to_owned());
    let script = folder.join("script");
    fs::write(&script, lines.join("\n") + "\n")?;
    Ok(script)
}

/// A word as guestfish reads it: in single quotes, those in it doubled backslashes apart.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Whether KVM can be used: the device may be there and not work, and libguestfs hangs then.
fn kvm_works() -> bool {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = cpu.lines().any(|l| l.starts_with("flags") && l.split_whitespace().any(|f| f == "vmx" || f == "svm"));
    has && fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}
