//! Which volume a Unix means by the name of a device.

use blockdev::partitions::Volume;

use super::Machine;

/// The volume that `device` of a line of `fstab` means, by its index; `None` when it is none of those at hand.
pub fn find(machine: Machine<'_>, device: &[u8]) -> Option<usize> {
    let device = std::str::from_utf8(device).ok()?;
    if let Some((tag, value)) = device.split_once('=') {
        return tagged(machine, tag, value.trim_matches(['"', '\'']));
    }
    let path = device.strip_prefix("/dev/")?;
    let by = |prefix: &str| path.strip_prefix(prefix).map(decoded);
    if let Some(value) = by("disk/by-uuid/") {
        return tagged(machine, "UUID", &value);
    }
    if let Some(value) = by("disk/by-label/").or_else(|| by("ufs/")).or_else(|| by("msdosfs/")) {
        return tagged(machine, "LABEL", &value);
    }
    if let Some(value) = by("disk/by-partuuid/").or_else(|| by("gptid/")) {
        return tagged(machine, "PARTUUID", &value);
    }
    if let Some(value) = by("disk/by-partlabel/").or_else(|| by("gpt/")) {
        return tagged(machine, "PARTLABEL", &value);
    }
    if let Some(name) = by("mapper/").or_else(|| by("disk/by-id/dm-name-")) {
        return mapped(machine, &name);
    }
    if let Some(array) = by("md/").or_else(|| by("disk/by-id/md-name-")) {
        return named_array(machine, &array);
    }
    // Of other names of disks (by-id, by-path) only the number of the partition is known.
    if let Some(name) = by("disk/") {
        let (_, number) = name.rsplit_once("-part")?;
        let [only] = machine.disks else { return None };
        return partition(machine, &only.name, number.parse().ok()?);
    }
    if path.starts_with("md") {
        return position(machine, |v| v.start.is_none() && v.name == path).or_else(|| named_array(machine, path));
    }
    match path.split_once('/') {
        Some((group, volume)) => logical(machine, group, volume),
        None => numbered(machine, path),
    }
}

fn position(machine: Machine<'_>, is: impl Fn(&Volume) -> bool) -> Option<usize> {
    machine.volumes.iter().position(|(volume, _)| is(volume))
}

fn tagged(machine: Machine<'_>, tag: &str, value: &str) -> Option<usize> {
    let same = |text: Option<&String>| text.is_some_and(|text| text.eq_ignore_ascii_case(value));
    if value.is_empty() {
        return None;
    }
    match tag {
        "UUID" => machine.volumes.iter().position(|(v, fs)| {
            same(fs.info().uuid.as_ref()) || same(v.content.as_ref().and_then(|content| content.uuid.as_ref()))
        }),
        "LABEL" => machine.volumes.iter().position(|(_, fs)| fs.info().label.as_deref() == Some(value)),
        // Volumes that are put together have a UUID and a label, but not from a partition table.
        "PARTUUID" => position(machine, |v| v.start.is_some() && same(v.uuid.as_ref())),
        "PARTLABEL" => position(machine, |v| v.start.is_some() && v.label.as_deref() == Some(value)),
        _ => None,
    }
}

/// The device mapper's name of an encrypted volume, as installers give it, or of a logical one: group and volume with a hyphen between them, their own hyphens doubled.
fn mapped(machine: Machine<'_>, name: &str) -> Option<usize> {
    if let Some(uuid) = name.strip_prefix("luks-") {
        let is_it = |v: &Volume| v.encryption.as_ref().is_some_and(|e| e.uuid.as_deref() == Some(uuid));
        if let Some(unlocked) = position(machine, is_it) {
            return Some(unlocked);
        }
    }
    let bytes = name.as_bytes();
    let mut at = 0;
    while let Some(found) = bytes.get(at..)?.iter().position(|b| *b == b'-') {
        at += found;
        if bytes.get(at + 1) != Some(&b'-') {
            let (group, volume) = (name.get(..at)?, name.get(at + 1..)?);
            return logical(machine, &group.replace("--", "-"), &volume.replace("--", "-"));
        }
        at += 2;
    }
    None
}

fn logical(machine: Machine<'_>, group: &str, volume: &str) -> Option<usize> {
    let name = format!("{group}-{volume}");
    position(machine, |v| v.start.is_none() && v.name == name)
}

/// An array by the name that it was given, which may have that of its host in front.
fn named_array(machine: Machine<'_>, name: &str) -> Option<usize> {
    let plain = |name: &str| name.rsplit_once(':').map_or(name, |(_, plain)| plain).to_owned();
    position(machine, |v| {
        v.start.is_none() && v.label.as_deref().is_some_and(|label| label == name || plain(label) == plain(name))
    })
}

/// The partition of a disk by the order of the disks: `sda1`, `vdb`, `nvme0n1p2`, `mmcblk0p1`, `ada0p2`. It is what is
/// left when a guest names no better: disks may have had another order.
fn numbered(machine: Machine<'_>, name: &str) -> Option<usize> {
    let number = |text: &str| text.parse::<usize>().ok();
    let (disk, part) = if let Some(lettered) = ["xvd", "sd", "vd", "hd"].iter().find_map(|p| name.strip_prefix(p)) {
        let letters = lettered.trim_end_matches(|c: char| c.is_ascii_digit());
        (letter(letters)?, lettered.strip_prefix(letters)?)
    } else {
        let kinds = ["nvme", "mmcblk", "ada", "da", "vtbd", "nda", "nvd"];
        let rest = kinds.iter().find_map(|p| name.strip_prefix(p))?;
        let (disk, part) = rest.split_once('p').unwrap_or((rest, ""));
        // The namespace of an NVMe device.
        (number(disk.split_once('n').map_or(disk, |(disk, _)| disk))?, part)
    };
    let disk = &machine.disks.get(disk)?.name;
    if part.is_empty() {
        return position(machine, |v| v.start.is_some() && v.name == "whole" && v.disks.first() == Some(disk));
    }
    partition(machine, disk, number(part)?)
}

fn partition(machine: Machine<'_>, disk: &String, number: usize) -> Option<usize> {
    let name = format!("p{number}");
    position(machine, |v| v.start.is_some() && v.name == name && v.disks.first() == Some(disk))
}

/// The number of the disk called `a`, `b` ... `z`, `aa` ...
fn letter(letters: &str) -> Option<usize> {
    if letters.is_empty() || letters.len() > 3 {
        return None;
    }
    let add = |number: usize, b: u8| b.is_ascii_lowercase().then(|| number * 26 + usize::from(b - b'a') + 1);
    letters.bytes().try_fold(0, add)?.checked_sub(1)
}

/// A name below `/dev/disk` without udev's escapes (`\x20`).
fn decoded(name: &str) -> String {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("\\x") {
        let (before, escape) = rest.split_at(at);
        plain.extend(before.as_bytes());
        match escape.get(2..4).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = escape.get(4..).unwrap_or_default();
            }
            None => {
                plain.extend(b"\\x");
                rest = escape.get(2..).unwrap_or_default();
            }
        }
    }
    plain.extend(rest.as_bytes());
    String::from_utf8_lossy(&plain).into_owned()
}
