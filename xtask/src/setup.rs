//! `cargo xtask setup`: installs what tests and benchmarks use beyond cargo, on Debian.
//!
//! Only what is missing is installed, no system-wide daemon is started, and what cannot be installed (no root, no
//! network) is named: the tests that need it skip themselves and say so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::cmd;

/// Debian packages, and what goes without them.
const PACKAGES: [(&str, &str); 41] = [
    ("fuse3", "mounting"),
    ("rsync", "reading a mount with rsync"),
    ("acl", "comparing ACLs"),
    ("attr", "comparing extended attributes"),
    ("zstd", "making the volume corpus"),
    ("sqlite3", "a stock Bacula for live tests"),
    ("postgresql", "PostgreSQL catalogs"),
    ("mariadb-server", "MariaDB catalogs"),
    ("qemu-utils", "judging disk images by qemu-img"),
    ("qemu-system-x86", "booting machines"),
    ("qemu-block-extra", "machines over iSCSI and NFS"),
    ("ovmf", "booting machines by UEFI"),
    ("libvirt-daemon-system", "machines of libvirt"),
    ("grub-pc-bin", "a guest that boots by BIOS"),
    ("grub-efi-amd64-bin", "a guest that boots by UEFI"),
    ("7zip", "judging disk images by 7z"),
    ("libnbd-bin", "NBD with libnbd's tools"),
    ("python3-libnbd", "NBD with nbdsh"),
    ("nbdkit", "NBD with nbdkit as a client"),
    ("openssl", "NBD over TLS"),
    ("fdisk", "partition tables of sfdisk"),
    ("gdisk", "partition tables of sgdisk"),
    ("dosfstools", "FAT volumes"),
    ("xfsprogs", "XFS volumes"),
    ("btrfs-progs", "btrfs volumes"),
    ("parted", "partition tables of parted"),
    ("ntfs-3g", "NTFS volumes"),
    ("exfatprogs", "exFAT volumes"),
    ("cryptsetup-bin", "LUKS volumes"),
    ("mtools", "files in FAT volumes"),
    ("exfat-fuse", "files in exFAT volumes"),
    ("zfs-fuse", "ZFS pools"),
    ("lvm2", "logical volumes"),
    ("squashfs-tools", "squashfs volumes"),
    ("xorriso", "ISO 9660 volumes"),
    ("libnfs-utils", "NFS with libnfs's tools"),
    ("libiscsi-bin", "iSCSI with libiscsi's suite and tools"),
    ("iproute2", "NFS with a port mapper"),
    ("samba", "SMB shares"),
    ("samba-vfs-modules", "names in SMB shares that Windows does not take"),
    ("smbclient", "SMB with Samba's client"),
];

/// Makes apt's maintainer scripts start no daemon as long as it lives.
struct NoDaemons {
    made: bool,
}

impl NoDaemons {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<Self> {
        // A machine that has a policy of its own keeps it.
        let made = !Path::new(Self::POLICY).exists();
        if made {
            fs::write(Self::POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(Self::POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { made })
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(Self::POLICY);
        }
    }
}

/// Installs what is missing and returns what is missing still: each a name and what goes without it.
pub fn run() -> Result<Vec<(&'static str, &'static str)>> {
    let mut missing = missing();
    if !missing.is_empty() {
        match install(&missing) {
            Ok(()) => {}
            Err(error) => println!("setup: {error:#}"),
        }
        missing = self::missing();
    }
    if let Err(error) = bacula() {
        println!("setup: {error:#}");
        missing.push(("bacula", "live tests against a stock Bacula"));
    }
    if !Path::new("/dev/fuse").exists() {
        missing.push(("/dev/fuse", "mounting"));
    }
    for (name, without) in &missing {
        println!("setup: {name} is missing; tests skipped: {without}");
    }
    if missing.is_empty() {
        println!("setup: everything is here");
    }
    Ok(missing)
}

/// Installs one package if `program` is not there; whether it is there now.
pub fn ensure(program: &str, package: &'static str) -> bool {
    if cmd::find(program).is_none()
        && let Err(error) = install(&[(package, "")])
    {
        println!("setup: {error:#}");
    }
    cmd::find(program).is_some()
}

fn missing() -> Vec<(&'static str, &'static str)> {
    PACKAGES.into_iter().filter(|(package, _)| !is_installed(package)).collect()
}

fn is_installed(package: &str) -> bool {
    let mut query = cmd::command("dpkg-query", ["-W", "-f=${Status}", package]);
    let answer = query.stderr(Stdio::null()).output();
    answer.is_ok_and(|answer| String::from_utf8_lossy(&answer.stdout).contains("install ok installed"))
}

fn install(packages: &[(&str, &str)]) -> Result<()> {
    anyhow::ensure!(cmd::find("apt-get").is_some(), "no apt-get here: packages are not installed");
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "not root: packages are not installed");
    let _no_daemons = NoDaemons::new()?;
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(arguments).stdout(Stdio::null()).stdin(Stdio::null());
        apt
    };
    cmd::run(&mut apt(&["update", "-qq", "-o", "DPkg::Lock::Timeout=300"]))?;
    let options = ["install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600"];
    let mut all = apt(&options);
    all.args(packages.iter().map(|(package, _)| package));
    if cmd::run(&mut all).is_ok() {
        return Ok(());
    }
    // One package that cannot be had must not keep the others away.
    for (package, _) in packages {
        if let Err(error) = cmd::run(apt(&options).arg(package)) {
            println!("setup: {package}: {error:#}");
        }
    }
    Ok(())
}

/// A stock Bacula 9.6, by the lab script; its daemons run only where a test starts them.
fn bacula() -> Result<()> {
    let mut script = Command::new(cmd::root().join("tests/lab/bacula-lab.sh"));
    cmd::run(script.args(["install", "--release", "9"]).stdin(Stdio::null()))
}
