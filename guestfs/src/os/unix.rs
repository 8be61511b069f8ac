//! Linux, FreeBSD, and what looks like a Unix.

use std::{cmp::Ordering, sync::Arc};

use blockdev::fields::read;

use super::{
    Family, Machine, MountPoint, System, devices, elf, fstab,
    release::{OLDER, OS_RELEASE, Release, variable},
    shown,
};
use crate::{FileId, FileSystem, Kind, resolve::View};

/// Where in a filesystem a root can be: subvolumes of btrfs as Ubuntu, Fedora, Debian and openSUSE name them, datasets of
/// ZFS, deployments of OSTree. A star stands for any name.
const ROOTS: [&str; 9] = [
    "",
    "@",
    "root",
    "@rootfs",
    "@/.snapshots/*/snapshot",
    "ROOT/*",
    "*/ROOT/*",
    "ostree/deploy/*/deploy/*",
    "root/ostree/deploy/*/deploy/*",
];

/// Names that a star is tried with.
const NAMES_MAX: usize = 64;

/// Roots that are looked at in one filesystem.
const ROOTS_MAX: usize = 256;

/// Mounts of one system.
const MOUNTS_MAX: usize = 256;

/// Bytes of a configuration file that are read.
const TEXT_MAX: usize = 1 << 20;

/// Entries of `/boot` and `/lib/modules` that are looked at, and kernels that are told.
const KERNELS_MAX: usize = 1000;

/// Programs that every system has, for its architecture.
const PROGRAMS: [&str; 6] = ["bin/sh", "usr/bin/sh", "sbin/init", "usr/lib/systemd/systemd", "usr/bin/env", "bin/ls"];

/// A directory that may be a root.
struct Candidate {
    path: Vec<u8>,
    id: FileId,
}

/// The system whose root is on volume number `volume`.
pub fn identify(machine: Machine<'_>, volume: usize) -> Option<System> {
    let (_, fs) = machine.volumes.get(volume)?;
    candidates(fs).into_iter().find_map(|candidate| {
        let view = View::new(Arc::clone(fs), candidate.id);
        let release = release(&view)?;
        Some(describe(machine, volume, candidate, view, release))
    })
}

/// Where a root can be: first what is mounted when nothing is said.
fn candidates(fs: &Arc<dyn FileSystem>) -> Vec<Candidate> {
    let mut found = Vec::new();
    for pattern in ROOTS {
        expand(fs, pattern, &mut found);
    }
    let default = fs.default_root();
    if found.iter().all(|candidate| candidate.id != default) {
        found.push(Candidate { path: Vec::new(), id: default });
    }
    found.sort_by_key(|candidate| candidate.id != default);
    found
}

/// Adds the directories of `fs` that `pattern` means.
fn expand(fs: &Arc<dyn FileSystem>, pattern: &str, found: &mut Vec<Candidate>) {
    let view = View::new(Arc::clone(fs), fs.root());
    let mut paths = vec![Vec::new()];
    for name in pattern.split('/').filter(|name| !name.is_empty()) {
        let mut longer = Vec::new();
        for path in paths {
            let names = if name == "*" { view.names(&path, NAMES_MAX).unwrap_or_default() } else { vec![name.into()] };
            for name in names {
                let path = if path.is_empty() { name } else { [path.as_slice(), b"/", &name].concat() };
                if longer.len() < ROOTS_MAX && matches!(view.find(&path), Ok(Some(dir)) if dir.kind == Kind::Dir) {
                    longer.push(path);
                }
            }
        }
        paths = longer;
    }
    for path in paths {
        match view.find(&path) {
            Ok(Some(dir)) if found.iter().all(|candidate| candidate.id != dir.id) && found.len() < ROOTS_MAX => {
                found.push(Candidate { path, id: dir.id });
            }
            _ => {}
        }
    }
}

/// What the system with the root of `view` calls itself; `None` when there is no system.
fn release(view: &View) -> Option<Release> {
    let text = |path: &str| view.read(path.as_bytes(), TEXT_MAX).ok().flatten();
    let release = OS_RELEASE.iter().find_map(|path| Release::of_os_release(&text(path)?));
    let release = release.or_else(|| OLDER.iter().find_map(|(path, format)| Release::of_older(&text(path)?, *format)));
    release.or_else(|| {
        let has = |path: &[u8]| matches!(view.find(path), Ok(Some(_)));
        let is_system = has(b"etc/passwd") && (has(b"bin/sh") || has(b"sbin/init"));
        is_system.then(|| Release { family: Family::Other, name: "Unix".to_owned(), version: None })
    })
}

fn describe(machine: Machine<'_>, volume: usize, root: Candidate, mut view: View, release: Release) -> System {
    let mut system = System::new(release.family, release.name);
    system.version = release.version;
    let root = MountPoint { path: b"/".to_vec(), volume, subdirectory: root.path, directory: root.id };
    mounts(machine, root, &view, &mut system);
    for mount in system.mounts.iter().skip(1) {
        if let Some((_, fs)) = machine.volumes.get(mount.volume) {
            view.mount(&mount.path, Arc::clone(fs), mount.directory);
        }
    }
    system.hostname = hostname(&view);
    system.architecture = architecture(&view);
    if system.family == Family::Linux {
        system.kernels = kernels(&view, &mut system);
    }
    system
}

/// Adds what `/etc/fstab` mounts, and the root.
fn mounts(machine: Machine<'_>, root: MountPoint, view: &View, system: &mut System) {
    let text = system.noted("/etc/fstab", view.read(b"etc/fstab", TEXT_MAX)).unwrap_or_default();
    let mut mounts = vec![root];
    for line in fstab::parse(&text) {
        let Some(volume) = devices::find(machine, &line.device) else { continue };
        let Some((_, fs)) = machine.volumes.get(volume) else { continue };
        if mounts.len() >= MOUNTS_MAX || mounts.iter().any(|mount| mount.path == line.path) {
            continue;
        }
        match subvolume(fs, &line) {
            Some((directory, subdirectory)) => {
                mounts.push(MountPoint { path: line.path, volume, subdirectory, directory });
            }
            None => system.notes.push(format!(
                "/etc/fstab mounts a subvolume at {} that is not there",
                shown(&line.path).unwrap_or_default()
            )),
        }
    }
    // What is mounted in another mount comes after it.
    mounts.sort_by(|a, b| a.path.cmp(&b.path));
    system.mounts = mounts;
}

/// What of `fs` a line of `fstab` means: the directory and its path.
fn subvolume(fs: &Arc<dyn FileSystem>, line: &fstab::Line) -> Option<(FileId, Vec<u8>)> {
    let is_dir = |id| matches!(fs.metadata(id), Ok(metadata) if metadata.kind == Kind::Dir);
    if let Some(path) = line.option(b"subvol") {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let found = View::new(Arc::clone(fs), fs.root()).find(path).ok().flatten()?;
        return (found.kind == Kind::Dir).then(|| (found.id, path.to_vec()));
    }
    let Some(id) = line.option(b"subvolid") else {
        let default = fs.default_root();
        return Some((default, path_of(fs, default)));
    };
    let root = fs.root();
    match std::str::from_utf8(id).ok()?.parse().ok()? {
        // The topmost one is number 5, and may be called 0.
        0 | 5 => Some((root, Vec::new())),
        // The topmost directory has the same number in each subvolume.
        tree => {
            let id = FileId { tree, number: root.number };
            is_dir(id).then(|| (id, path_of(fs, id)))
        }
    }
}

/// The path of the subvolume `id`, where it is one of those with a known name.
fn path_of(fs: &Arc<dyn FileSystem>, id: FileId) -> Vec<u8> {
    if id == fs.root() {
        return Vec::new();
    }
    candidates(fs).into_iter().find(|candidate| candidate.id == id).map(|candidate| candidate.path).unwrap_or_default()
}

fn hostname(view: &View) -> Option<String> {
    let text = |path: &str| view.read(path.as_bytes(), TEXT_MAX).ok().flatten();
    let first =
        |text: Vec<u8>| text.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().starts_with(b"#")).find_map(shown);
    text("etc/hostname")
        .and_then(first)
        .or_else(|| text("etc/HOSTNAME").and_then(first))
        .or_else(|| variable(&text("etc/sysconfig/network")?, "HOSTNAME"))
        .or_else(|| variable(&text("etc/rc.conf")?, "hostname"))
        .or_else(|| variable(&text("etc/conf.d/hostname")?, "hostname"))
}

fn architecture(view: &View) -> Option<String> {
    let head = |path: &str| read(&view.open(path.as_bytes()).ok()??, 0, elf::HEAD).ok();
    PROGRAMS.iter().find_map(|path| elf::architecture(&head(path)?)).map(str::to_owned)
}

/// Versions of the kernels in `/boot` and `/lib/modules`.
fn kernels(view: &View, system: &mut System) -> Vec<String> {
    let mut kernels = Vec::new();
    for (folder, prefixes) in [
        ("boot", &["vmlinuz-", "vmlinux-", "kernel-", "Image-"][..]),
        ("lib/modules", &[""]),
        ("usr/lib/modules", &[""]),
    ] {
        for name in system.noted(folder, view.names(folder.as_bytes(), KERNELS_MAX)) {
            let version = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix.as_bytes()));
            // Beside versions there are names such as "vmlinuz-linux".
            if let Some(version) = version.filter(|v| v.first().is_some_and(u8::is_ascii_digit)).and_then(shown) {
                kernels.push(version);
            }
        }
    }
    kernels.sort_by(|a, b| by_version(a, b));
    kernels.dedup();
    kernels.truncate(KERNELS_MAX);
    kernels
}

/// The order of versions: numbers in them count as numbers.
fn by_version(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(Option<u64>, String)> {
        let is_same = |a: &char, b: &char| a.is_ascii_digit() == b.is_ascii_digit();
        let chars: Vec<char> = text.chars().collect();
        let part = |part: &[char]| part.iter().collect::<String>();
        chars.chunk_by(is_same).map(part).map(|part| (part.parse().ok(), part)).collect()
    };
    parts(a).cmp(&parts(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_order() {
        let mut versions = ["6.10.3", "6.1.0-13-amd64", "6.1.0-9-amd64", "5.14.0-362.el9.x86_64", "6.1.0-13"];
        versions.sort_by(|a, b| by_version(a, b));
        assert_eq!(versions, ["5.14.0-362.el9.x86_64", "6.1.0-9-amd64", "6.1.0-13", "6.1.0-13-amd64", "6.10.3"]);
    }
}
