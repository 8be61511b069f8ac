//! Who the guest is, and how it saw its disks: asked of files that its system has anyway.
//!
//! * `unix`: Linux, FreeBSD and what looks like a Unix: the root among the volumes and their subvolumes, `release`
//!   (its name), `fstab` (its mounts), `devices` (which volume a line of `fstab` means), `elf` (its architecture);
//! * `windows`: by its [`registry`];
//! * `firmware`: what the disks can be booted with.
//!
//! All of that was written by the guest, and none of it is needed to read its files: what cannot be read is left out, and
//! told in the notes.

mod devices;
mod elf;
mod firmware;
mod fstab;
pub mod registry;
mod release;
mod unix;
mod windows;

use std::sync::Arc;

use blockdev::{
    Error, fields,
    partitions::{Disk, Survey, Volume},
};

use crate::{FileId, FileSystem};

/// Characters of a name that are shown.
const TEXT_MAX: usize = 256;

/// The family of an operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// Linux, whatever the distribution.
    Linux,
    /// Windows NT and its successors.
    Windows,
    /// FreeBSD and what is made of it.
    FreeBsd,
    /// It looks like a Unix, and says no more.
    Other,
}

impl Family {
    /// Its name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Windows => "windows",
            Self::FreeBsd => "freebsd",
            Self::Other => "other",
        }
    }
}

/// The firmware that can start a machine from its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Firmware {
    /// A BIOS.
    Bios,
    /// UEFI.
    Uefi,
    /// Both.
    Either,
}

impl Firmware {
    /// Its name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::Either => "bios or uefi",
        }
    }
}

/// A directory of a volume in the guest's own tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Where the guest has it: `/`, `/boot/efi`; `C:`.
    pub path: Vec<u8>,
    /// The volume, by its index among those that were given.
    pub volume: usize,
    /// The directory of the volume that is seen there (`@home`); empty for its topmost one.
    pub subdirectory: Vec<u8>,
    /// The same as a file of the volume's filesystem.
    pub directory: FileId,
}

/// What a guest says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct System {
    /// The family.
    pub family: Family,
    /// `Debian GNU/Linux`, `Windows Server 2022 Standard`.
    pub name: String,
    /// `12 (bookworm)`, `10.0.20348.2113 (21H2)`.
    pub version: Option<String>,
    /// As `uname -m` says on Linux: `x86_64`, `aarch64`; that of the programs, which need not be the kernel's.
    pub architecture: Option<String>,
    /// Its name in the network.
    pub hostname: Option<String>,
    /// What its disks can be booted with.
    pub firmware: Option<Firmware>,
    /// Versions of Linux kernels that are installed, in ascending order.
    pub kernels: Vec<String>,
    /// How it saw its volumes, those first that hold others.
    pub mounts: Vec<MountPoint>,
    /// What an operator should know, a sentence each: what could not be read, what else is on the disks.
    pub notes: Vec<String>,
}

impl System {
    fn new(family: Family, name: String) -> Self {
        Self {
            family,
            name,
            version: None,
            architecture: None,
            hostname: None,
            firmware: None,
            kernels: Vec::new(),
            mounts: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// `what` could not be read.
    fn failed(&mut self, what: &str, error: &Error) {
        self.notes.push(format!("{what}: {error}"));
    }

    /// The value of `read`, or none and a note.
    fn noted<T: Default>(&mut self, what: &str, read: blockdev::Result<T>) -> T {
        read.unwrap_or_else(|e| {
            self.failed(what, &e);
            T::default()
        })
    }
}

/// The disks and volumes of a machine.
#[derive(Clone, Copy)]
struct Machine<'a> {
    disks: &'a [Disk],
    volumes: &'a [(&'a Volume, Arc<dyn FileSystem>)],
}

/// What the disks of a machine tell about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// The system on them.
    pub system: Option<System>,
    /// What they can be booted with: as the system says, or else as loaders, boot sectors and partition tables tell.
    pub firmware: Option<Firmware>,
}

/// What the disks of `survey`, which are those of one machine, tell about it. Filesystems that cannot be opened say
/// nothing. The mounts of its system are of volumes of the survey.
#[must_use]
pub fn examine(survey: &Survey) -> Guest {
    let mut numbers = Vec::new();
    let mut opened = Vec::new();
    for found in crate::find(&survey.volumes) {
        let number = found.volumes.first().copied().unwrap_or(usize::MAX);
        if let (Some(volume), Ok(fs)) = (survey.volumes.get(number), found.open()) {
            numbers.push(number);
            opened.push((volume, fs));
        }
    }
    let mut system = identify(&survey.disks, &opened);
    for mount in system.iter_mut().flat_map(|system| &mut system.mounts) {
        mount.volume = numbers.get(mount.volume).copied().unwrap_or(usize::MAX);
    }
    let machine = Machine { disks: &survey.disks, volumes: &opened };
    let told = system.as_ref().and_then(|s| s.firmware).or_else(|| firmware::of(machine));
    Guest { firmware: told.or_else(|| firmware::of_tables(&survey.volumes)), system }
}

/// The system that lies on `volumes`, which are those of one machine whose filesystem can be read, in the order of its
/// survey; `disks` are that survey's. A filesystem of several volumes is given once, with any of them.
///
/// Of several systems it is the first; the others are in its notes.
#[must_use]
pub fn identify(disks: &[Disk], volumes: &[(&Volume, Arc<dyn FileSystem>)]) -> Option<System> {
    let machine = Machine { disks, volumes };
    let mut found: Vec<(usize, System)> = Vec::new();
    for volume in 0..volumes.len() {
        let system = windows::identify(machine, volume).or_else(|| unix::identify(machine, volume));
        // A volume that another system mounts (an old /usr) is no system of its own.
        found.extend(system.map(|system| (volume, system)));
    }
    // One that only looks like a system comes last.
    found.sort_by_key(|(_, system)| system.family == Family::Other);
    let mut found = found.into_iter();
    let (_, mut system) = found.next()?;
    for (volume, other) in found.filter(|(_, other)| other.family != Family::Other) {
        let volume = volumes.get(volume).map_or("", |(volume, _)| &volume.name);
        let version = other.version.map(|version| format!(" {version}")).unwrap_or_default();
        system.notes.push(format!("another system is on volume {volume}: {}{version}", other.name));
    }
    system.firmware = system.firmware.or_else(|| firmware::of(machine));
    Some(system)
}

/// Text of a guest, fit to be shown; `None` when there is none.
fn shown(bytes: &[u8]) -> Option<String> {
    fields::text(bytes.trim_ascii()).map(|text| text.chars().take(TEXT_MAX).collect())
}
