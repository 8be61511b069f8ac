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
    output::{self, size},
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
    let file = |disk: &RestoredDisk| DiskSource::File { path: restore.path(&disk.name), format: restore.wish.format };
    let files: Vec<_> = point.disks.iter().map(file).collect();
    let Some(described) = &point.machine else {
        sessions.check_off(name)?;
        put_all(restore, &come, point)?;
        lines.push(format!("{name}: no machine was made, only what was asked for"));
        return Ok(lines);
    };
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
        sources,
    };
    // Before a disk is replaced: one that is in use by a machine that runs is refused here.
    let notes = sessions.adopt(&adopted)?;
    put_all(restore, &come, point).inspect_err(|_| {
        if let Err(e) = sessions.disown(name) {
            output::note(&format!("{name}: it has no disks, and cannot be taken away: {e}"));
        }
    })?;
    lines.extend(notes.into_iter().map(|note| format!("{name}: {note}")));
    let how = match restore.wish.start.then(|| sessions.start_adopted(&adopted)) {
        None => "not started: `revenant recover start`, or its own tools".to_owned(),
        Some(Ok(())) => "started".to_owned(),
        Some(Err(e)) => format!("which does NOT start: {e}"),
    };
    lines.push(format!("{name}: a machine on {}, {how}", restore.hypervisor.label()));
    Ok(lines)
}

/// Puts all disks into their places, or none.
fn put_all(restore: &Incoming, come: &Come, point: &RestoredPoint) -> Result<()> {
    for (number, disk) in point.disks.iter().enumerate() {
        put(restore, come, disk).inspect_err(|_| {
            for disk in point.disks.iter().take(number) {
                let _ = fs::remove_file(restore.path(&disk.name));
            }
        })?;
    }
    Ok(())
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
