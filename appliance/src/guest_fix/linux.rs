//! Linux: drivers of the disks' controllers in the initramfs, and lasting names of disks.

use blockdev::{ReadAt, Result};
use guestfs::os::System;

use super::{
    Change, Edit, Plan, Target,
    devices::Devices,
    files::Files,
    initramfs::{Archive, Contents},
    modules::{Modules, name_of},
};

/// Bytes of texts and of an initramfs that are read at most.
const TEXT_MAX: u64 = 16 << 20;
const INITRAMFS_MAX: u64 = 1 << 30;

/// What `kmod` and `udev` need besides the modules, in the folder of a kernel's modules.
const INDEXES: [&str; 12] = [
    "modules.alias",
    "modules.alias.bin",
    "modules.builtin",
    "modules.builtin.alias.bin",
    "modules.builtin.bin",
    "modules.builtin.modinfo",
    "modules.dep",
    "modules.dep.bin",
    "modules.devname",
    "modules.order",
    "modules.softdep",
    "modules.symbols.bin",
];

/// Texts with a kernel's command line.
const BOOT_TEXTS: [&str; 6] = [
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/boot/extlinux/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
];

impl Target {
    /// The drivers that reach a disk, each line one way; all that the kernel has are wanted.
    const fn drivers(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Kvm => &[
                &["virtio_pci", "virtio_blk"],
                &["virtio_pci", "virtio_scsi", "sd_mod"],
                &["ahci", "sd_mod"],
                &["ata_piix", "sd_mod"],
                &["nvme"],
            ],
            Self::Vmware => &[
                &["vmw_pvscsi", "sd_mod"],
                &["mptspi", "sd_mod"],
                &["mptsas", "sd_mod"],
                &["ahci", "sd_mod"],
                &["nvme"],
            ],
            Self::Hyperv => &[&["hv_vmbus", "hv_storvsc", "sd_mod"], &["ata_piix", "sd_mod"]],
        }
    }
}

/// What a Linux guest needs.
///
/// # Errors
///
/// When its files cannot be read.
pub fn plan(root: &Files, system: &System, devices: &Devices, target: Target) -> Result<Plan> {
    let mut plan = Plan::default();
    names(root, devices, &mut plan)?;
    let mut wanted_later = Vec::new();
    for version in &system.kernels {
        kernel(root, version, target, &mut plan, &mut wanted_later)?;
    }
    if system.kernels.is_empty() {
        plan.notes.push("no kernel is found in /lib/modules: its drivers cannot be looked at".to_owned());
    }
    remember(root, &wanted_later, &mut plan)?;
    if root.find("/etc/udev/rules.d/70-persistent-net.rules")?.is_some() {
        plan.notes.push(
            "/etc/udev/rules.d/70-persistent-net.rules ties names of network cards to their addresses: keep the MAC \
             addresses, or remove it"
                .to_owned(),
        );
    }
    Ok(plan)
}

/// The initramfs of a kernel: the drivers it lacks.
fn kernel(root: &Files, version: &str, target: Target, plan: &mut Plan, wanted_later: &mut Vec<String>) -> Result<()> {
    let folder = format!("/lib/modules/{version}");
    let text = |name: &str| -> Result<String> {
        let read = root.read(&format!("{folder}/{name}"), TEXT_MAX)?;
        Ok(read.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default())
    };
    let modules = Modules::parse(&text("modules.dep")?, &text("modules.builtin")?);
    let names = [format!("initrd.img-{version}"), format!("initramfs-{version}.img"), format!("initrd-{version}")];
    let mut found = None;
    for name in &names {
        found = found.or(root.open(&format!("/boot/{name}"), INITRAMFS_MAX)?);
    }
    let Some((path, initramfs)) = found else {
        plan.notes.push(format!("kernel {version} has no initramfs in /boot: nothing is added to it"));
        return Ok(());
    };
    let mut bytes = vec![0; usize::try_from(initramfs.size()).unwrap_or(0)];
    let n = initramfs.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    let contents = match Contents::read(&bytes) {
        Ok(contents) => contents,
        Err(e) => {
            // Where it has its folders is not known: a folder in the place of a link would break it.
            plan.notes.push(format!("{path}: {e}; nothing is added to it"));
            return Ok(());
        }
    };
    let present: Vec<String> = contents.names().filter(|n| n.contains(".ko")).map(name_of).collect();
    let ways: Vec<_> = target.drivers().iter().filter(|way| way.iter().all(|name| modules.has(name))).collect();
    if ways.is_empty() {
        plan.notes.push(format!("kernel {version} has no driver for any controller there: it will not find its disk"));
        return Ok(());
    }
    let missing: Vec<&str> = ways
        .iter()
        .flat_map(|way| way.iter().copied())
        .filter(|name| !modules.is_builtin(name) && !present.iter().any(|p| p == name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let extra = archive(root, &folder, version, &modules, &contents, &missing)?;
    let mut missing: Vec<String> = missing.into_iter().map(str::to_owned).collect();
    missing.sort();
    missing.dedup();
    plan.edits.push(Edit {
        // A reader of archives goes on at a multiple of four.
        change: Change::From((bytes.len() as u64).next_multiple_of(4), extra),
        why: format!("{path}: {} for kernel {version}", missing.join(", ")),
        path,
    });
    missing.retain(|name| !wanted_later.contains(name));
    wanted_later.append(&mut missing);
    Ok(())
}

/// An archive with the modules that `names` need and all indexes, at the place where the initramfs has its modules.
fn archive(
    root: &Files,
    folder: &str,
    version: &str,
    modules: &Modules,
    contents: &Contents,
    names: &[&str],
) -> Result<Vec<u8>> {
    let mut files: Vec<&str> = names.iter().flat_map(|name| modules.with_needs(name)).collect();
    files.sort_unstable();
    files.dedup();
    let place = contents.modules_folder(version);
    let mut archive = Archive::default();
    let mut made: Vec<String> = Vec::new();
    for file in files.into_iter().chain(INDEXES) {
        // A file in modules.dep may also be absolute, or lead out.
        let Some((_, content)) = root.read(&format!("{folder}/{file}"), INITRAMFS_MAX)? else { continue };
        let name = format!("{place}/{file}");
        for (at, _) in name.match_indices('/') {
            let parent = name.get(..at).unwrap_or_default();
            if !contents.has(parent) && !made.iter().any(|m| m == parent) {
                archive.folder(parent);
                made.push(parent.to_owned());
            }
        }
        archive.file(&name, &content);
    }
    Ok(archive.finish())
}

/// Lasting names in /etc/fstab and on the kernel's command line.
fn names(root: &Files, devices: &Devices, plan: &mut Plan) -> Result<()> {
    let mut texts: Vec<(String, &[&str])> = vec![("/etc/fstab".to_owned(), &["\n"])];
    texts.extend(BOOT_TEXTS.iter().map(|path| ((*path).to_owned(), &["root=", "resume="][..])));
    for folder in ["/boot/loader/entries", "/boot/efi/loader/entries"] {
        for name in root.list(folder)?.iter().filter(|name| name.ends_with(".conf")) {
            texts.push((format!("{folder}/{name}"), &["root=", "resume="]));
        }
    }
    for (path, before) in texts {
        let Some((path, bytes)) = root.read(&path, TEXT_MAX)? else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let (new, mut done) = devices.replaced(&text, before);
        if done.is_empty() {
            continue;
        }
        done.sort();
        done.dedup();
        let done: Vec<_> = done.into_iter().map(|(from, to)| format!("{from} is {to}")).collect();
        plan.edits.push(Edit {
            why: format!("{path}: {}", done.join(", ")),
            change: Change::Content(new.into_bytes()),
            path,
        });
    }
    Ok(())
}

/// The guest's own tools add the drivers, too, when they make an initramfs the next time.
fn remember(root: &Files, drivers: &[String], plan: &mut Plan) -> Result<()> {
    if drivers.is_empty() {
        return Ok(());
    }
    if let Some((path, bytes)) = root.read("/etc/initramfs-tools/modules", TEXT_MAX)? {
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        drivers.iter().for_each(|name| text.push_str(&format!("{name}\n")));
        let why = format!("{path}: {}", drivers.join(", "));
        plan.edits.push(Edit { path, change: Change::Content(text.into_bytes()), why });
    }
    if let Some((folder, _)) = root.find("/etc/dracut.conf.d")? {
        let path = format!("{folder}/revenant.conf");
        let text = format!("add_drivers+=\" {} \"\n", drivers.join(" "));
        let why = format!("{path}: {}", drivers.join(", "));
        plan.edits.push(Edit { path, change: Change::Content(text.into_bytes()), why });
    }
    Ok(())
}
