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
        migrate::{self, Completion, Migration, Settled},
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
    let mut machine = machine::complete(described, &record.machine, &names, disks, secrets.as_ref());
    machine.firmware = record.firmware.or(machine.firmware);
    Ok(machine)
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

/// How a machine is that was started.
pub enum Health {
    /// It runs, or somebody has stopped it.
    Well,
    /// It stands still at a request that its disk cannot do; why.
    Stands(String),
    /// It has ended. What became of the moving of its disks, if they were being moved.
    Off(Option<Settled>),
}

/// Looks after a machine: one that stands still because a disk did not answer or had no room is let go on.
///
/// # Errors
///
/// When QEMU does not answer.
pub fn tend(folder: &Path) -> Result<Health> {
    let Some(running) = Running::find(folder)? else { return Ok(Health::Off(settle(folder)?)) };
    let stands = || -> Result<bool> { Ok(matches!(running.state()?, Power::Paused(why) if why == "io-error")) };
    if !stands()? {
        return Ok(Health::Well);
    }
    running.resume()?;
    thread::sleep(POLL);
    Ok(if stands()? { Health::Stands(failing(&running)?) } else { Health::Well })
}

/// What disks a machine stands still for, and why, as far as QEMU knows.
fn failing(running: &Running) -> Result<String> {
    let all = running.execute("query-block", &json!({}))?;
    let text = |disk: &Value, path: &str| disk.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let why = |disk: &Value| {
        let node = text(disk, "/inserted/node-name");
        match text(disk, "/io-status").as_str() {
            "nospace" => Some(format!("there is no room for what {node} writes")),
            "failed" => Some(format!("{node} cannot be read or written")),
            _ => None,
        }
    };
    let found: Vec<_> = all.as_array().into_iter().flatten().filter_map(why).collect();
    Ok(if found.is_empty() { "a disk fails".to_owned() } else { found.join(", ") })
}

/// What became of the moving of a machine's disks that has ended; `None` when they were not being moved.
fn settle(folder: &Path) -> Result<Option<Settled>> {
    if folder.exists() { migrate::settle(folder) } else { Ok(None) }
}

/// Starts a machine again that was started here before and has ended: over the disks that it had then.
///
/// # Errors
///
/// When QEMU cannot be started.
pub fn restart(folder: &Path) -> Result<Running> {
    settle(folder)?;
    qemu::start(folder, &qemu::read_spec(folder)?)
}

/// Moves the disks of a running machine to `targets`, and compares them; what was begun before goes on.
///
/// # Errors
///
/// When the machine does not run, a copy fails or differs, or `is_cancelled`; the machine goes on with its own disks then.
pub fn move_disks(
    folder: &Path,
    targets: &[Target],
    is_cancelled: &dyn Fn() -> bool,
    step: &dyn Fn(&str),
) -> Result<()> {
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
                // A machine that has ended cannot be asked to: who looks after it clears up.
                let _ = migration.cancel();
                return Err(e);
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

/// Ends the machine, without asking its guest: what it writes is thrown away. One that is off is no error. What becomes of
/// the moving of its disks, if they were being moved.
///
/// # Errors
///
/// When its process does not end, or what was begun to be moved cannot be removed.
pub fn stop(folder: &Path) -> Result<Option<Settled>> {
    if let Ok(Some(running)) = Running::find(folder) {
        running.stop(Duration::ZERO)?;
    }
    settle(folder)
}
