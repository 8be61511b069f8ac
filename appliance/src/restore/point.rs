//! The restore point that files make: which disks, by which files, and what is still missing.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use blockdev::Result;
use hv_drivers::machine::{self, Machine};

use super::{
    incoming::{Come, Incoming},
    member::Member,
    words,
};
use crate::backup::digests::{Digests, DiskDigests};

/// A restore point as far as it has come.
#[derive(Default)]
pub struct RestoredPoint {
    /// What the machine is made of; `None` where its description has not come, or only some of its disks are wanted.
    pub machine: Option<Machine>,
    pub disks: Vec<RestoredDisk>,
    /// What has not come yet; nothing: all has.
    pub missing: Vec<String>,
}

/// A disk of it.
pub struct RestoredDisk {
    pub name: String,
    /// Its newest file.
    pub file: String,
    /// Bytes of the disk.
    pub size: u64,
    /// The digests of its files, the newest first; fewer than there are files where some have not come.
    pub digests: Vec<Arc<DiskDigests>>,
    /// Whether all of those are there.
    pub has_digests: bool,
}

impl RestoredPoint {
    /// What has come of `restore`, whose files the host has in `folder`. Without a description of the machine, it is what the
    /// newest files of each disk say.
    ///
    /// # Errors
    ///
    /// When the tables of a file contradict themselves.
    pub fn of(restore: &Incoming, come: &Come, folder: &Path) -> Self {
        let mut point = Self::default();
        let described = come.begun.contains(machine::FILE_NAME).then(|| {
            let text = std::fs::read(folder.join(machine::FILE_NAME)).unwrap_or_default();
            // While it is coming it cannot be read.
            Machine::read(&text).ok()
        });
        let newest: Vec<String> = match &described {
            Some(Some(machine)) => machine.disks.iter().filter_map(|disk| disk.file.clone()).collect(),
            Some(None) => return Self { missing: vec![machine::FILE_NAME.to_owned()], ..point },
            None => newest_of(come),
        };
        let wish = &restore.wish.disks;
        let mut wanted: BTreeSet<&str> = wish.iter().map(String::as_str).collect();
        for file in newest {
            let Some((disk, _)) = words::member(&file) else { continue };
            if !wish.is_empty() && !wanted.remove(disk) {
                continue;
            }
            let disk = disk.to_owned();
            match chain(come, &file) {
                Ok(chain) => point.add(disk, file, &chain, folder, come, described.is_some()),
                Err(missing) => point.missing.push(missing),
            }
        }
        point.missing.extend(wanted.into_iter().map(|disk| format!("the disk {disk}")));
        if point.disks.is_empty() && point.missing.is_empty() {
            point.missing.push("any disk".to_owned());
        }
        point.machine = described.flatten().filter(|_| wish.is_empty());
        point
    }

    fn add(&mut self, name: String, file: String, chain: &[Arc<Member>], folder: &Path, come: &Come, is_point: bool) {
        let mut digests = Vec::new();
        for member in chain {
            let text = format!("{:04}.digests", member.number);
            let known = come.begun.contains(&text).then(|| own_digests(&folder.join(&text), &name));
            match known.and_then(Result::ok).flatten() {
                Some(known) => digests.push(known),
                // They belong to a point; who chooses single files may leave them out.
                None if is_point => self.missing.push(text),
                None => {}
            }
        }
        let size = chain.first().and_then(|newest| newest.map()).map_or(0, |map| map.size());
        self.missing.dedup();
        let has_digests = digests.len() == chain.len();
        self.disks.push(RestoredDisk { name, file, size, digests, has_digests });
    }
}

fn own_digests(path: &Path, disk: &str) -> Result<Option<Arc<DiskDigests>>> {
    Ok(Digests::open(path)?.disk(disk).cloned())
}

/// The newest file of each disk.
fn newest_of(come: &Come) -> Vec<String> {
    let newest = |disk: &String| {
        let own = come.members.iter().filter(|(_, member)| member.disk == *disk);
        own.max_by_key(|(_, member)| member.number).map(|(name, _)| name.clone())
    };
    come.disks.keys().filter_map(newest).collect()
}

/// The files that `file` is made of, the newest first; or what is missing of them.
fn chain(come: &Come, file: &str) -> std::result::Result<Vec<Arc<Member>>, String> {
    let mut found: Vec<Arc<Member>> = Vec::new();
    let mut next = Some(file.to_owned());
    while let Some(name) = next.take() {
        let missing = || name.clone();
        let member = come.members.get(&name).ok_or_else(missing)?;
        let map = member.map().filter(|_| member.is_whole()).ok_or_else(missing)?;
        // Each is older than the one that is on top of it: this ends.
        if found.last().is_some_and(|above| member.number >= above.number) {
            return Err(format!("a parent of {file} that is older than it"));
        }
        next = map.backing().map(str::to_owned);
        found.push(Arc::clone(member));
    }
    Ok(found)
}
