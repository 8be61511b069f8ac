//! Domains as machines: their list, and what each is made of as libvirt shows it.

use std::collections::BTreeMap;

use super::{Libvirt, shown};
use crate::{
    Error, Result,
    driver::{Inspected, Inventory, Listed, LiveDisk, State},
    machine::{Machine, Source},
};

/// Whether a domain's name can be that of a folder.
fn is_fit(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0', '\n']) && name.len() < 200
}

impl Inventory for Libvirt {
    fn machines(&self) -> Result<Vec<Listed>> {
        let mut found = Vec::new();
        for name in self.names()? {
            let tags = match self.virsh.domain("dumpxml", &name, &[]) {
                Ok(xml) => shown::tags(&xml)?,
                // It was undefined since the list was made; any other domain that cannot be asked might be one to back up.
                Err(_) if !self.names()?.contains(&name) => continue,
                Err(e) => return Err(e.context(format_args!("domain {name}"))),
            };
            found.push(Listed { name, tags });
        }
        Ok(found)
    }

    fn names(&self) -> Result<Vec<String>> {
        let names = self.virsh.run(&["list", "--all", "--name"])?;
        Ok(names.lines().map(str::trim).filter(|name| is_fit(name)).map(str::to_owned).collect())
    }

    fn inspect(&self, machine: &str) -> Result<Inspected> {
        let state = self.virsh.domain("domstate", machine, &[])?;
        let state = match state.trim() {
            "running" | "idle" => State::Running,
            "shut off" => {
                return Err(Error::not_found(format!(
                    "{machine} is off: libvirt backs up running machines; start it, paused if need be"
                )));
            }
            other => State::Paused(other.to_owned()),
        };
        let xml = self.virsh.domain("dumpxml", machine, &[])?;
        let mut described = shown::machine(&xml)?;
        let version = self.virsh.run(&["version"])?;
        let version = version.lines().find_map(|line| line.strip_prefix("Running hypervisor: QEMU "));
        described.source = Some(Source {
            hypervisor: Some("libvirt".to_owned()),
            id: Some(machine.to_owned()),
            version: version.map(|v| v.trim().to_owned()),
        });
        let sizes = sizes(&self.virsh.domain("domblkinfo", machine, &["--all".as_ref()])?);
        let (mut disks, mut left_out) = (Vec::new(), Vec::new());
        for disk in shown::backed_up(&xml)? {
            match (disk.why_not, sizes.get(&disk.target)) {
                (Some(why), _) => left_out.push((disk.target, why)),
                (None, None) => left_out.push((disk.target, "libvirt does not tell its size".to_owned())),
                (None, Some(size)) => disks.push(LiveDisk { name: disk.target, size: *size, place: disk.place }),
            }
        }
        described.disks.retain(|disk| disks.iter().any(|live| disk.name.as_deref() == Some(live.name.as_str())));
        for (disk, live) in described.disks.iter_mut().zip(&disks) {
            disk.size = Some(live.size);
        }
        Ok(Inspected {
            // What it tells is another program's word: bounded like any description.
            machine: Machine::read(described.write().as_bytes())?,
            native: vec![("domain.xml".to_owned(), xml.into_bytes())],
            state,
            disks,
            left_out,
        })
    }
}

/// The capacity of each disk in what `domblkinfo --all` prints.
fn sizes(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_libvirt_prints_them() {
        let text = " vda      67108864   200704   196616\n sda      -   -   -\n vdb      1048576  0  0\n";
        let sizes = sizes(text);
        assert_eq!((sizes.get("vda"), sizes.get("sda"), sizes.get("vdb")), (Some(&67_108_864), None, Some(&1_048_576)));
        assert!(is_fit("web 01") && !is_fit("../x") && !is_fit(""));
    }
}
