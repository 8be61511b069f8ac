//! What machines and disks are called when no description says it.
//!
//! Hypervisors name their files so: `vm-100-disk-0.qcow2` (Proxmox), `web01.vmdk`, `web01_1.vmdk` (VMware),
//! `web01.vhdx`, `web01-disk1.vdi`; `disk.0003-inc.qcow2` is a member of our own chains. What tells nothing
//! (`disk.img`) takes its machine's name from its folder, or else from the client.

use std::{collections::BTreeMap, sync::Arc};

use volreader::archive::job::component;

use super::{AllMachines, Path, discover::Found};

/// What a machine would be called, and what tells it from others of that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub name: String,
    pub client: String,
    pub folder: Path,
}

/// Words that name no machine.
const GENERIC: [&str; 26] = [
    "disk", "disks", "drive", "hd", "hda", "sd", "sda", "vd", "vda", "xvda", "image", "images", "root", "system",
    "boot", "data", "vm", "vms", "raw", "src", "tmp", "backup", "storage", "harddisk", "flat", "home",
];

fn is_generic(name: &str) -> bool {
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '-' | '_' | '.' | ' '));
    bare.is_empty() || GENERIC.contains(&bare.to_ascii_lowercase().as_str())
}

/// A file's name without extension and without what only tells its place in a chain.
fn stem(file: &[u8]) -> String {
    let name = String::from_utf8_lossy(file).into_owned();
    let stem = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map_or(name.as_str(), |(stem, _)| stem);
    let Some((head, tail)) = stem.rsplit_once('.') else { return stem.to_owned() };
    let is_member = tail.split_once('-').is_some_and(|(number, kind)| {
        !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
            && matches!(kind, "full" | "inc" | "diff" | "incremental" | "differential")
    });
    if is_member { head.to_owned() } else { stem.to_owned() }
}

/// The disk that a file is, if its name is to tell.
pub fn disk_of_file(file: &[u8]) -> String {
    component(&stem(file))
}

/// Machine and disk of a file.
pub fn of_file(file: &[u8], folder: &Path, client: &str) -> (String, String) {
    let stem = stem(file);
    // `vm-100-disk-0`, `web01-disk1`, `web01_disk1`
    let lower = stem.to_ascii_lowercase();
    if let Some(at) = lower.rfind("disk").filter(|at| *at > 0)
        && lower[at + 4..].bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    {
        let machine = stem[..at].trim_end_matches(['-', '_', '.', ' ']);
        if !machine.is_empty() {
            return (component(machine), component(&stem[at..]));
        }
    }
    if is_generic(&stem) {
        (of_folder(folder, client), component(&stem))
    } else {
        (component(&stem), "disk0".to_owned())
    }
}

/// The machine that a folder is named after, or else the client.
pub fn of_folder(folder: &Path, client: &str) -> String {
    let last = folder.last().map(|n| String::from_utf8_lossy(n).into_owned());
    component(&last.filter(|n| !is_generic(n)).unwrap_or_else(|| client.to_owned()))
}

/// Disks of one machine, each with a name of its own.
pub fn disks(mut disks: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    disks.sort();
    let mut count: BTreeMap<String, u32> = BTreeMap::new();
    for (name, _) in &mut disks {
        let n = count.entry(name.clone()).or_default();
        *n += 1;
        if *n > 1 {
            name.push_str(&format!("-{n}"));
        }
    }
    disks
}

/// Machines by name: those of one name that are different machines are told apart by client and folder.
pub fn unique(found: Vec<Found>) -> AllMachines {
    let mut machines: BTreeMap<String, BTreeMap<Named, Vec<_>>> = BTreeMap::new();
    for machine in found {
        let same_name = machines.entry(machine.named.name.clone()).or_default();
        same_name.entry(machine.named).or_default().push(Arc::new(machine.point));
    }
    let mut all = AllMachines::new();
    for (name, different) in machines {
        let alone = different.len() == 1;
        for (named, mut points) in different {
            points.sort_by_key(|p| (p.seconds, p.job_id));
            let mut unique = if alone { name.clone() } else { format!("{}-{name}", component(&named.client)) };
            for n in 2.. {
                if !all.contains_key(&unique) {
                    break;
                }
                unique = format!("{}-{name}-{n}", component(&named.client));
            }
            all.insert(unique, points);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hypervisors_give() {
        let folder = vec![b"srv".to_vec(), b"images".to_vec()];
        let of = |file: &str| of_file(file.as_bytes(), &folder, "lab-fd");
        let pair = |machine: &str, disk: &str| (machine.to_owned(), disk.to_owned());
        assert_eq!(of("vm-100-disk-0.qcow2"), pair("vm-100", "disk-0"));
        assert_eq!(of("web01.vmdk"), pair("web01", "disk0"));
        assert_eq!(of("web01-disk1.vdi"), pair("web01", "disk1"));
        assert_eq!(of("disk.img"), pair("lab-fd", "disk"));
        assert_eq!(of("disk0.0003-inc.qcow2"), pair("lab-fd", "disk0"));
        assert_eq!(of("db.0001-full.qcow2"), pair("db", "disk0"));
        assert_eq!(of_file(b"sda.raw", &vec![b"web01".to_vec()], "lab-fd"), pair("web01", "sda"));
        assert_eq!(of("..").0, "lab-fd");
    }
}
