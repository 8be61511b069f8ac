//! When everything has come: the disks are proven and put into their places, and the machine is made.

use std::fs;

use blockdev::{Error, ErrorKind, Result};
use hv_drivers::{
    driver::DiskSource,
    machine::{Disk, Machine},
    settings::Settings,
};

use super::{
    incoming::{Come, Incoming, Outcome},
    point::{RestoredDisk, RestoredPoint},
    proof,
};
use crate::{
    cli::Sources,
    output::size,
    recovery::sessions::{Adopted, Sessions},
};

/// Makes of `restore` what it was for, and says how that went.
pub fn finish(restore: &Incoming, point: &RestoredPoint, sessions: &Sessions, sources: &Sources) -> Outcome {
    let name = &restore.wish.name;
    match finished(restore, point, sessions, sources) {
        Ok(lines) => Outcome { is_good: true, lines, is_told: false },
        Err(e) => {
            let lines = vec![format!("{name}: NOT restored, and nothing of it is left: {e}")];
            Outcome { is_good: false, lines, is_told: false }
        }
    }
}

fn finished(restore: &Incoming, point: &RestoredPoint, sessions: &Sessions, sources: &Sources) -> Result<Vec<String>> {
    let name = &restore.wish.name;
    let come = restore.come();
    let mut lines = Vec::new();
    for disk in &point.disks {
        let merging = come.disks.get(&disk.name).ok_or_else(|| gone(disk))?;
        let mut merging = merging.lock();
        let proven = match (disk.has_digests, merging.made()) {
            (true, Some(made)) => Some(proof::prove(made.read(), disk)?),
            _ => None,
        };
        merging.finish(disk.size)?;
        let proven = match proven {
            Some(clusters) => format!("proven by {clusters} digests"),
            None => "NOT proven: its files of digests were not restored".to_owned(),
        };
        let path = restore.path(&disk.name);
        lines.push(format!("{name}: disk {} of {}, {proven}: {}", disk.name, size(disk.size), path.display()));
    }
    let mut files = Vec::new();
    for disk in &point.disks {
        let path = restore.path(&disk.name);
        if let Err(e) = put(restore, &come, disk) {
            // All of them, or none.
            for file in files {
                let DiskSource::File { path, .. } = file else { continue };
                let _ = fs::remove_file(path);
            }
            return Err(e);
        }
        files.push(DiskSource::File { path, format: restore.wish.format });
    }
    if let Some(described) = &point.machine {
        let machine = machine(described, restore, point);
        let settings = Settings {
            network: restore.wish.network.clone(),
            // It takes the place of the machine that it was.
            keep_macs: described.name == *name,
            ..Settings::default()
        };
        let adopted = Adopted {
            name,
            machine: &machine,
            hypervisor: &restore.hypervisor,
            settings,
            disks: &files,
            replace: restore.wish.overwrite,
            start: restore.wish.start,
            sources,
        };
        let notes = sessions.adopt(&adopted).map_err(|e| {
            let kept: Vec<_> = point.disks.iter().map(|disk| restore.path(&disk.name).display().to_string()).collect();
            e.context(format_args!("its disks are complete ({}), but no machine was made of them", kept.join(", ")))
        })?;
        lines.extend(notes.into_iter().map(|note| format!("{name}: {note}")));
        let how =
            if restore.wish.start { "started" } else { "not started: `revenant recover start`, or its own tools" };
        lines.push(format!("{name}: a machine on {}, {how}", restore.hypervisor.label()));
    } else {
        lines.push(format!("{name}: no machine was made, only what was asked for"));
    }
    Ok(lines)
}

/// Puts a disk that is complete into its place.
fn put(restore: &Incoming, come: &Come, disk: &RestoredDisk) -> Result<()> {
    let path = restore.path(&disk.name);
    if path.exists() && !restore.wish.overwrite {
        return Err(Error::new(ErrorKind::Exists, format!("{} has come to be there meanwhile", path.display())));
    }
    let mut merging = come.disks.get(&disk.name).ok_or_else(|| gone(disk))?.lock();
    merging.keep(&path)?;
    restore.keep(merging.path());
    Ok(())
}

fn gone(disk: &RestoredDisk) -> Error {
    Error::invalid(format!("disk {} is not there any more", disk.name))
}

/// The machine with the disks that were restored, in their order.
fn machine(described: &Machine, restore: &Incoming, point: &RestoredPoint) -> Machine {
    let mut machine = described.clone();
    if machine.name != restore.wish.name {
        // Another beside it.
        machine.uuid = None;
        machine.name.clone_from(&restore.wish.name);
    }
    let own = |disk: &RestoredDisk| {
        let described = described.disks.iter().find(|known| known.file.as_deref() == Some(disk.file.as_str()));
        let mut own = described.cloned().unwrap_or_default();
        own.size = Some(disk.size);
        own.file = restore.path(&disk.name).file_name().map(|name| name.to_string_lossy().into_owned());
        own
    };
    machine.disks = point.disks.iter().map(own).collect::<Vec<Disk>>();
    machine
}

/// What is told of one that came in part only.
pub fn incomplete(restore: &Incoming, point: &RestoredPoint) -> Outcome {
    let name = &restore.wish.name;
    let (first, more) = point.missing.split_at(point.missing.len().min(4));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    let mut lines: Vec<String> = restore.problem().into_iter().collect();
    lines.push(format!("{name}: NOT restored, and nothing of it is left: missing {}{more}", first.join(", ")));
    Outcome { is_good: false, lines, is_told: false }
}
