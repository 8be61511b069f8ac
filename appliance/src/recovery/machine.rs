//! The machine of a session, run by QEMU on this host.
//!
//! QEMU is a process of its own in a folder of its own, `machines/<session>` of the state: it outlives the daemon, and once
//! its disks have been moved, the session, too.

use std::{net::SocketAddr, path::Path, thread, time::Duration};

use blockdev::{Error, ErrorKind, Result};
use hv_drivers::{
    driver::{DiskSource, State as Power, Target},
    machine::Machine,
    qemu::{
        self, Running, Settings, Spec,
        migrate::{Completion, Migration},
    },
};
use serde_json::{Value, json};

use super::{
    doors::{iscsi, nbd},
    record::{DiskRecord, Door, Record},
};
use crate::{
    commands::{Opened, machine, source::DiskSource as Source},
    config,
    output::size,
};

/// How often the progress of a copy is asked for.
const POLL: Duration = Duration::from_millis(500);

/// What a restore point is as a machine: as its description says, and as its disks tell where that is silent. Its disks are
/// those of the session, in its order.
///
/// # Errors
///
/// When its description cannot be read.
pub fn described(opened: &Opened, record: &Record, disks: &[Source]) -> Result<Machine> {
    let names: Vec<String> = record.disks.iter().map(|disk| disk.name.clone()).collect();
    let described = match machine::described(opened, record.point.as_ref()) {
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        described => described?,
    };
    let secrets = config::secrets(&record.sources)?;
    Ok(machine::complete(described, &record.machine, &names, disks, secrets.as_ref()))
}

/// Starts the machine in `folder` over the session's door for this host, unless it runs already.
///
/// # Errors
///
/// When QEMU cannot be started.
pub fn start(folder: &Path, session: &Path, record: &Record, machine: Machine, settings: &Settings) -> Result<Running> {
    if let Some(running) = Running::find(folder)? {
        return Ok(running);
    }
    let disks = record.disks.iter().map(|disk| source(record, session, disk)).collect::<Result<_>>()?;
    qemu::start(folder, &Spec { machine, disks, settings: settings.clone() })
}

/// How QEMU reaches a disk: by the protocol that was asked for.
fn source(record: &Record, session: &Path, disk: &DiskRecord) -> Result<DiskSource> {
    let address = || -> Option<SocketAddr> { record.addresses.first()?.parse().ok() };
    match (record.door, address()) {
        (Door::Nfs, Some(address)) => Ok(DiskSource::Nfs {
            host: address.ip().to_string(),
            path: format!("/{}/{}-flat.vmdk", record.id, disk.name),
            ports: Some((address.port(), address.port())),
        }),
        (Door::Iscsi, Some(address)) => Ok(DiskSource::Iscsi {
            portal: address.to_string(),
            target: iscsi::target(record),
            lun: record.disks.iter().position(|d| d == disk).and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
            chap: None,
        }),
        (Door::Nbd, _) => Ok(DiskSource::NbdUnix { socket: nbd::socket(session), export: disk.name.clone() }),
        (door, _) => {
            Err(Error::unsupported(format!("QEMU here has no way to disks through {door:?}; try --through nbd")))
        }
    }
}

/// How the machine is, for programs; null if there never was one.
pub fn value(folder: &Path) -> Value {
    if !folder.exists() {
        return Value::Null;
    }
    let path = |name: &str| folder.join(name);
    let (state, pid) = match Running::find(folder) {
        Ok(Some(running)) => {
            let state = running.state().map_or_else(|e| e.to_string(), |state| shown(&state));
            (state, Some(running.pid()))
        }
        Ok(None) => ("off".to_owned(), None),
        Err(e) => (e.to_string(), None),
    };
    json!({
        "state": state,
        "pid": pid,
        "console": path("console.sock"),
        "console_log": path("console.log"),
        "vnc": path("vnc.sock"),
        "qmp": path("qmp.sock"),
    })
}

fn shown(state: &Power) -> String {
    match state {
        Power::Running => "running".to_owned(),
        Power::Paused(why) => format!("paused: {why}"),
        Power::Off => "off".to_owned(),
    }
}

/// Lets a machine go on that stands still because a disk did not answer or had no room; what it waits for, if it still
/// does.
///
/// # Errors
///
/// When QEMU does not answer.
pub fn tend(folder: &Path) -> Result<Option<String>> {
    let Some(running) = Running::find(folder)? else { return Ok(Some("the machine is off".to_owned())) };
    if let Power::Paused(why) = running.state()?
        && why == "io-error"
    {
        running.resume()?;
        thread::sleep(POLL);
        if matches!(running.state()?, Power::Paused(_)) {
            return Ok(Some(
                "the machine stands still: its disk could not be written (is there room for the overlay?); it goes on by \
                 itself"
                    .to_owned(),
            ));
        }
    }
    Ok(None)
}

/// Moves the disks of a running machine to `targets`, and compares them; what was begun before goes on.
///
/// # Errors
///
/// When the machine does not run, a copy fails or differs, or `is_cancelled`; the machine goes on with its own disks then.
pub fn migrate(folder: &Path, targets: &[Target], is_cancelled: &dyn Fn() -> bool, step: &dyn Fn(&str)) -> Result<()> {
    let running = Running::find(folder)?
        .ok_or_else(|| Error::invalid("the machine is off: convert its restore point instead (revenant convert)"))?;
    let is_moved = |disk: &DiskSource| matches!(disk, DiskSource::File { .. });
    let migration = match Migration::find(&running)? {
        Some(begun) => begun,
        None if running.spec().disks.iter().all(is_moved) => return Ok(()),
        None => Migration::begin(&running, targets)?,
    };
    let mut told = None;
    loop {
        let progress = match migration.progress() {
            Ok(progress) => progress,
            Err(e) => {
                let given_up = migration.cancel();
                return Err(given_up.err().unwrap_or(e));
            }
        };
        let percent = progress.done.saturating_mul(100) / progress.total.max(1);
        if told != Some(percent) {
            told = Some(percent);
            step(&format!("copied {} of {} ({percent} %)", size(progress.done), size(progress.total)));
        }
        if progress.is_ready {
            break;
        }
        if is_cancelled() {
            migration.cancel()?;
            return Err(Error::invalid("moving was cancelled; the machine goes on with the disks that it had"));
        }
        thread::sleep(POLL);
    }
    step("comparing");
    migration.complete(&Completion::default()).map(drop)
}

/// Ends the machine, without asking its guest: what it writes is thrown away. One that is off is no error.
///
/// # Errors
///
/// When its process does not end.
pub fn stop(folder: &Path) -> Result<()> {
    match Running::find(folder) {
        Ok(Some(running)) => running.stop(Duration::ZERO).map(drop),
        _ => Ok(()),
    }
}
