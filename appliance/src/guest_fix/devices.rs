//! Names of disks: those that change with the controller, and those that stay.

use blockdev::partitions::{Scheme, Survey, Volume};
use guestfs::os::System;

use super::Mount;
use crate::commands::source::DiskSource;

/// The volumes of a machine by the names that Linux gives to disks.
pub struct Devices {
    /// The labels of the disks, in the order of their names: `sda`, `sdb`.
    disks: Vec<String>,
    volumes: Vec<Named>,
}

struct Named {
    disk: usize,
    /// `None`: the whole disk.
    partition: Option<u32>,
    /// Of what is on it.
    uuid: Option<String>,
}

impl Devices {
    pub fn new(disks: &[DiskSource], survey: &Survey) -> Self {
        let disks: Vec<String> = disks.iter().map(|disk| disk.label.clone()).collect();
        let volumes = survey.volumes.iter().filter_map(|volume| {
            let (disk, partition) = place(&disks, volume)?;
            Some(Named { disk, partition, uuid: volume.content.as_ref().and_then(|c| c.uuid.clone()) })
        });
        let volumes = volumes.collect();
        Self { disks, volumes }
    }

    /// `UUID=...` for a device whose name depends on the controller: `/dev/sda3`, `/dev/vdb`, `/dev/nvme0n1p2`.
    pub fn lasting(&self, device: &str) -> Option<String> {
        let (disk, partition) = parse(device)?;
        let named = self.volumes.iter().find(|v| v.disk == disk && v.partition == partition)?;
        Some(format!("UUID={}", named.uuid.as_ref()?))
    }

    /// `text` with lasting names for all devices that stand behind one of `before`, and those that were replaced.
    pub fn replaced(&self, text: &str, before: &[&str]) -> (String, Vec<(String, String)>) {
        let (mut out, mut done, mut rest) = (String::with_capacity(text.len()), Vec::new(), text);
        while let Some(at) = rest.find("/dev/") {
            let (head, tail) = rest.split_at(at);
            let end = tail.find(|c: char| !(c.is_ascii_alphanumeric() || c == '/')).unwrap_or(tail.len());
            let (device, behind) = tail.split_at(end);
            out.push_str(head);
            let is_meant = before.iter().any(|b| out.ends_with(b) || (*b == "\n" && out.is_empty()));
            match self.lasting(device).filter(|_| is_meant) {
                Some(name) => {
                    out.push_str(&name);
                    done.push((device.to_owned(), name));
                }
                None => out.push_str(device),
            }
            rest = behind;
        }
        out.push_str(rest);
        (out, done)
    }

    /// How libguestfs reaches the volumes that the guest mounts; it calls the disks `sda`, `sdb` in their order.
    pub fn mounts(&self, system: &System, survey: &Survey, notes: &mut Vec<String>) -> Vec<Mount> {
        let mut mounts = Vec::new();
        for mount in &system.mounts {
            let path = String::from_utf8_lossy(&mount.path).into_owned();
            let path = if path.ends_with(':') { "/".to_owned() } else { path };
            let Some(volume) = survey.volumes.get(mount.volume) else { continue };
            let device = match (place(&self.disks, volume), volume.scheme) {
                (Some((disk, partition)), _) => {
                    let number = partition.map(|n| n.to_string()).unwrap_or_default();
                    letter(disk).map(|letter| format!("/dev/sd{letter}{number}"))
                }
                // The name of a group and that of its volume may have dashes of their own.
                (None, Scheme::Lvm) => volume.name.split_once('-').map(|(group, name)| format!("/dev/{group}/{name}")),
                _ => None,
            };
            match device {
                Some(device) => {
                    let subvolume = String::from_utf8_lossy(&mount.subdirectory).into_owned();
                    mounts.push(Mount { device, path, subvolume });
                }
                None => notes.push(format!("{path}: volume {} is not reached for writing", volume.name)),
            }
        }
        mounts
    }
}

/// The disk and the partition that a volume is; `None` if it is put together.
fn place(disks: &[String], volume: &Volume) -> Option<(usize, Option<u32>)> {
    let [disk] = volume.disks.as_slice() else { return None };
    let disk = disks.iter().position(|d| d == disk)?;
    if volume.name == "whole" {
        return Some((disk, None));
    }
    Some((disk, Some(volume.name.strip_prefix('p')?.parse().ok()?)))
}

/// The number of the disk and of the partition in a name.
fn parse(device: &str) -> Option<(usize, Option<u32>)> {
    let name = device.strip_prefix("/dev/")?;
    let number = |digits: &str| if digits.is_empty() { Some(None) } else { digits.parse().ok().map(Some) };
    if let Some(rest) = name.strip_prefix("nvme") {
        let (disk, rest) = rest.split_once("n1")?;
        let partition = rest.strip_prefix('p').unwrap_or(rest);
        return Some((disk.parse().ok()?, number(partition)?));
    }
    let rest = ["xvd", "vd", "sd", "hd"].iter().find_map(|bus| name.strip_prefix(bus))?;
    let letter = rest.chars().next().filter(char::is_ascii_lowercase)?;
    let partition = rest.get(1..)?;
    Some((usize::from(letter as u8 - b'a'), number(partition)?))
}

fn letter(disk: usize) -> Option<char> {
    u8::try_from(disk).ok().filter(|disk| *disk < 26).map(|disk| char::from(b'a' + disk))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Devices {
        let named = |disk, partition, uuid: &str| Named { disk, partition, uuid: Some(uuid.to_owned()) };
        Devices {
            disks: vec!["a".to_owned(), "b".to_owned()],
            volumes: vec![named(0, Some(3), "root"), named(1, None, "data"), named(0, Some(12), "swap")],
        }
    }

    #[test]
    fn only_what_changes_is_replaced() {
        let devices = devices();
        assert_eq!(devices.lasting("/dev/vda3").as_deref(), Some("UUID=root"));
        assert_eq!(devices.lasting("/dev/nvme0n1p12").as_deref(), Some("UUID=swap"));
        assert_eq!(devices.lasting("/dev/xvdb").as_deref(), Some("UUID=data"));
        for other in ["/dev/sda1", "/dev/mapper/vg-root", "/dev/vg/root", "/dev/sd", "/dev/sdA3", "/dev/sda3x"] {
            assert_eq!(devices.lasting(other), None, "{other}");
        }
        let text = "# /dev/sda3\n/dev/sda3 / ext4 defaults 0 1\n/dev/sdb /data xfs\nUUID=1 /x ext4\n";
        let (new, done) = devices.replaced(text, &["\n"]);
        assert_eq!(new, "# /dev/sda3\nUUID=root / ext4 defaults 0 1\nUUID=data /data xfs\nUUID=1 /x ext4\n");
        assert_eq!(done.len(), 2);
        let (new, _) = devices.replaced("linux /v root=/dev/vda3 resume=/dev/vda12 x=/dev/vda3", &["root=", "resume="]);
        assert_eq!(new, "linux /v root=UUID=root resume=UUID=swap x=/dev/vda3");
    }
}
