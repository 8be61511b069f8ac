//! The machine that a path names: its disks, and what it is made of, as far as that is known.

use std::{ffi::OsStr, path::Path};

use blockdev::{ReadAt, Result, encrypted::Secrets, images::Format};
use guestfs::os::{self, Firmware};
use hv_drivers::machine::{self, Machine};
use vfs::node::Node;

use super::{
    Opened,
    inspect::survey,
    source::{DiskSource, Disks, is_host_path},
};

/// A machine, and a source for each of its disks.
pub struct Found {
    /// What it is made of; its disks are those of `sources`, in their order.
    pub machine: Machine,
    /// Its disks.
    pub sources: Vec<DiskSource>,
}

/// The machine whose disks are those that `path` names. What its description does not say is as its disks tell it, or as
/// most machines have it.
///
/// # Errors
///
/// When there are no disks, or they cannot be read.
pub fn find(disks: &Disks<'_>, path: &OsStr, format: Option<Format>) -> Result<Found> {
    let sources = disks.several(path, format)?;
    let described = if is_host_path(path) { None } else { described(disks.tree()?, path)? };
    let names: Vec<String> = sources.iter().map(DiskSource::stem).collect();
    let machine = complete(described, &name_of(path), &names, &sources, disks.secrets()?.as_ref());
    Ok(Found { machine, sources })
}

/// What is known of a machine: its description, if it has one, its name where that has none, and what its disks tell, which
/// are `sources` and have `names`.
pub fn complete(
    described: Option<Machine>,
    name: &str,
    names: &[String],
    sources: &[DiskSource],
    secrets: &Secrets,
) -> Machine {
    let mut machine = described.unwrap_or_else(|| Machine::new(name, []));
    let told = std::mem::take(&mut machine.disks);
    let disk = |(number, (name, source)): (usize, (&String, &DiskSource))| {
        let is_it = |d: &&machine::Disk| {
            let file = d.file.as_deref().map(|f| Path::new(f).file_name().unwrap_or_default().to_string_lossy());
            // A description may be older than the chain whose name it has.
            d.name.as_ref() == Some(name) || file.is_some_and(|f| f.split('.').next() == Some(name.as_str()))
        };
        let same_place = || told.get(number).filter(|_| told.len() == sources.len());
        let known = told.iter().find(is_it).or_else(same_place).cloned().unwrap_or_default();
        machine::Disk { name: Some(name.clone()), size: Some(source.image.disk.size()), ..known }
    };
    machine.disks = names.iter().zip(sources).enumerate().map(disk).collect();
    if machine.firmware.is_none() || machine.guest_os.is_none() {
        let guest = os::examine(&survey(sources, secrets));
        machine.firmware = machine.firmware.or_else(|| guest.firmware.map(started_by));
        machine.guest_os = machine.guest_os.or_else(|| guest.system.map(|s| s.family.name().to_owned()));
    }
    machine
}

/// What starts a machine whose disks can be started so. Both can mean that UEFI needs an entry in variables that are not
/// on the disk; a BIOS needs nothing.
const fn started_by(firmware: Firmware) -> machine::Firmware {
    match firmware {
        Firmware::Uefi => machine::Firmware::Uefi,
        Firmware::Bios | Firmware::Either => machine::Firmware::Bios,
    }
}

/// `machine.json` in the folder `path` of the tree; one that cannot be understood is as if it were not there.
///
/// # Errors
///
/// When the folder or the file cannot be read.
pub fn described(tree: &Opened, path: &OsStr) -> Result<Option<Machine>> {
    let Node::Dir(folder) = tree.resolve(path)? else { return Ok(None) };
    let Some(Node::File(file)) = folder.lookup(machine::FILE_NAME.as_bytes())? else { return Ok(None) };
    let content = file.open()?;
    let mut bytes = vec![0; content.size().min(machine::LEN_MAX + 1) as usize];
    let n = content.read_at(&mut bytes, 0)?;
    Ok(Machine::read(bytes.get(..n).unwrap_or_default()).ok())
}

/// What the machine at `path` is called: `machines/NAME/@TIME`, `images/NAME`, or a file.
pub fn name_of(path: &OsStr) -> String {
    let text = path.to_string_lossy();
    let mut parts = text.split('/').filter(|p| !p.is_empty());
    match (parts.next(), parts.next()) {
        (Some("machines" | "images"), Some(name)) if !is_host_path(path) => name.to_owned(),
        _ => Path::new(path).file_stem().map_or_else(|| text.to_string(), |stem| stem.to_string_lossy().into_owned()),
    }
}
