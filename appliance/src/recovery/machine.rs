//! The machine of a session, run by a hypervisor.
//!
//! What is kept of it is in a folder of its own, `machines/<session>` of the state: it outlives the daemon, and once its disks
//! have been moved, the session, too. Which hypervisor it is, only its driver knows.

use std::{net::SocketAddr, path::Path, thread, time::Duration};

use blockdev::{Error, ErrorKind, Result};
use hv_drivers::{
    driver::{DiskSource, Driver, LifeCycle, Settled, State as Power, Target},
    machine::Machine,
};
use serde_json::{Value, json};

use super::{
    doors::{datastore, iscsi, nbd, reach::Reach},
    record::{DiskFormat, DiskRecord, Door, Hypervisor, Record},
};
use crate::{
    commands::{Opened, machine, source::DiskSource as Source},
    config,
    output::size,
};

/// How often the progress of a copy is asked for.
const POLL: Duration = Duration::from_millis(500);

fn driver(record: &Record) -> Result<Box<dyn Driver>> {
    record.hypervisor.driver(record.settings.clone().unwrap_or_default())
}

fn life(driver: &dyn Driver) -> Result<&dyn LifeCycle> {
    driver
        .life_cycle()
        .ok_or_else(|| Error::unsupported(format!("{} starts and stops no machines here", driver.name())))
}

/// Whether the machine that is wished for can be run, before anything is made of it; the user and group as whom its
/// hypervisor opens sockets, if that is another.
///
/// # Errors
///
/// When the hypervisor cannot be reached, or takes no disks through that door.
pub fn check(record: &Record) -> Result<Option<(u32, u32)>> {
    if record.settings.is_none() {
        return Ok(None);
    }
    let refused = |why: &'static str| Err(Error::unsupported(why));
    match (&record.hypervisor, record.door) {
        (_, Door::Smb) => return refused("no machine is run from a share here: leave out --on, or --through"),
        (Hypervisor::Libvirt(_), Door::Iscsi | Door::Nfs) => {
            return refused("domains of libvirt get their disks by NBD: leave out --through");
        }
        (Hypervisor::Qemu, Door::Nfs) if record.format == Some(DiskFormat::Vhdx) => {
            return refused("QEMU is given disks by NFS as they are: --format vmdk or raw");
        }
        _ => {}
    }
    let driver = driver(record)?;
    if is_remote(record) && record.listen.is_none() {
        return refused(
            "the disks have to be served to the other host: --listen ADDRESS:PORT, an address of this one that it reaches, \
             and --allow with its own",
        );
    }
    life(driver.as_ref())?.user()
}

/// Whether the hypervisor is on another host.
fn is_remote(record: &Record) -> bool {
    matches!(&record.hypervisor, Hypervisor::Libvirt(uri) if !uri.starts_with("qemu:///"))
}

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

/// Starts the machine in `folder` over the session's doors, unless it runs already. What is other than described.
///
/// # Errors
///
/// When it cannot be started.
pub fn start(folder: &Path, session: &Path, record: &Record, machine: &Machine) -> Result<Vec<String>> {
    let disks: Vec<_> = record.disks.iter().map(|disk| source(record, session, disk)).collect::<Result<_>>()?;
    life(driver(record)?.as_ref())?.start(machine, &disks, folder)
}

/// Writes a machine down in `folder` whose disks stay, so that it can be started. What is other than described.
///
/// # Errors
///
/// When its hypervisor refuses it.
pub fn define(
    record: &Record,
    machine: &Machine,
    disks: &[DiskSource],
    folder: &Path,
    replace: bool,
) -> Result<Vec<String>> {
    life(driver(record)?.as_ref())?.define(machine, disks, folder, replace)
}

/// Starts one that was written down.
///
/// # Errors
///
/// When it does not start.
pub fn start_defined(record: &Record, machine: &Machine, disks: &[DiskSource], folder: &Path) -> Result<()> {
    life(driver(record)?.as_ref())?.start(machine, disks, folder).map(drop)
}

/// How the hypervisor reaches a disk: by the protocol that was asked for.
fn source(record: &Record, session: &Path, disk: &DiskRecord) -> Result<DiskSource> {
    let address = record.addresses.iter().find_map(|address| address.parse::<SocketAddr>().ok());
    let is_libvirt = matches!(record.hypervisor, Hypervisor::Libvirt(_));
    match (record.door, address) {
        (Door::Nfs, Some(address)) => Ok(DiskSource::Nfs {
            host: address.ip().to_string(),
            path: format!("/{}/{}", record.id, datastore::file(record, &disk.name)),
            // The door has a port mapper, which QEMU asks.
            ports: None,
        }),
        (Door::Iscsi, Some(address)) => Ok(DiskSource::Iscsi {
            portal: address.to_string(),
            target: iscsi::target(record),
            lun: record.disks.iter().position(|d| d == disk).and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
            chap: None,
        }),
        (Door::Nbd, Some(address))
            if is_remote(record) && (address.ip().is_unspecified() || address.ip().is_loopback()) =>
        {
            Err(Error::invalid(format!(
                "the other host does not find disks at {address}: --listen an address that it reaches"
            )))
        }
        // Who names an address has a reason: a host elsewhere, or rules that keep hypervisors from sockets of files.
        (Door::Nbd, Some(address)) if is_libvirt => {
            Ok(DiskSource::NbdTcp { host: address.ip().to_string(), port: address.port(), export: disk.name.clone() })
        }
        (Door::Nbd, _) => {
            let socket = record.reach.as_ref().map_or_else(|| nbd::socket(session), Reach::socket);
            Ok(DiskSource::NbdUnix { socket, export: disk.name.clone() })
        }
        (door, _) => Err(Error::unsupported(format!("there is no way to disks through {door:?}; try --through nbd"))),
    }
}

/// How the machine is, for programs; null if there never was one.
pub fn value(record: &Record, folder: &Path) -> Value {
    let Ok(driver) = driver(record) else { return Value::Null };
    let (true, Ok(life)) = (folder.exists(), life(driver.as_ref())) else { return Value::Null };
    let mut value = json!(life.access(folder));
    value["state"] = life.state(folder).map_or_else(|e| e.to_string(), |state| shown(&state)).into();
    value
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
    /// It runs.
    Well,
    /// It stands still, and somebody has stopped it: how.
    Stopped(String),
    /// It stands still at a request that its disk cannot do: why, where that is known.
    Stands(Option<String>),
    /// It has ended. What became of the moving of its disks, if they were being moved.
    Off(Option<Settled>),
}

/// Looks after a machine: one that stands still because a disk did not answer or had no room is let go on.
///
/// # Errors
///
/// When its hypervisor does not answer.
pub fn tend(record: &Record, folder: &Path) -> Result<Health> {
    let driver = driver(record)?;
    let life = life(driver.as_ref())?;
    match life.state(folder)? {
        Power::Off => return Ok(Health::Off(settle(driver.as_ref(), folder)?)),
        Power::Paused(why) if why == "io-error" => {}
        Power::Paused(why) => return Ok(Health::Stopped(why)),
        Power::Running => return Ok(Health::Well),
    }
    life.resume(folder)?;
    thread::sleep(POLL);
    Ok(match life.state(folder)? {
        Power::Paused(_) => Health::Stands(life.failing(folder)?),
        Power::Running | Power::Off => Health::Well,
    })
}

/// What became of the moving of a machine's disks that has ended; `None` when they were not being moved.
fn settle(driver: &dyn Driver, folder: &Path) -> Result<Option<Settled>> {
    driver.relocation().map_or(Ok(None), |relocation| relocation.settle(folder))
}

/// Starts a machine again that was started here before and has ended: over the disks that it had then. What is other than
/// described.
///
/// # Errors
///
/// When it cannot be started.
pub fn start_again(record: &Record, folder: &Path) -> Result<Vec<String>> {
    life(driver(record)?.as_ref())?.start_again(folder)
}

/// Moves the disks of a running machine to `targets`, and compares them; what was begun before goes on.
///
/// # Errors
///
/// When the machine does not run, a copy fails or differs, or `is_cancelled`; the machine goes on with its own disks then.
pub fn move_disks(
    record: &Record,
    folder: &Path,
    targets: &[Target],
    is_cancelled: &dyn Fn() -> bool,
    step: &dyn Fn(&str),
) -> Result<()> {
    let driver = driver(record)?;
    let relocation = driver.relocation().ok_or_else(|| {
        Error::unsupported(
            "the disks of machines on other hosts are not moved from here: move them there (virsh blockcopy)",
        )
    })?;
    if life(driver.as_ref())?.state(folder)? == Power::Off {
        return Err(Error::invalid("the machine is off: convert its restore point instead (revenant convert)"));
    }
    let is_moved = |disk: &DiskSource| matches!(disk, DiskSource::File { .. });
    if matches!(relocation.progress(folder), Ok(None)) {
        if relocation.disks(folder)?.iter().all(is_moved) {
            return Ok(());
        }
        relocation.begin(folder, targets)?;
    }
    let mut told = None;
    loop {
        let progress = match relocation.progress(folder) {
            Ok(progress) => progress.unwrap_or_default(),
            Err(e) => {
                // A machine that has ended cannot be asked to: who looks after it clears up.
                let _ = relocation.cancel(folder);
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
            relocation.cancel(folder)?;
            return Err(Error::invalid("moving was cancelled; the machine goes on with the disks that it had"));
        }
        thread::sleep(POLL);
    }
    step("comparing");
    relocation.complete(folder)
}

/// Whether disks are on their way, and cannot be given up any more: then moving them is tried again.
pub fn is_moving(record: &Record, folder: &Path) -> bool {
    let Ok(driver) = driver(record) else { return false };
    driver.relocation().is_some_and(|relocation| matches!(relocation.progress(folder), Ok(Some(_))))
}

/// Asks the guest to shut down; whether it is off within `grace`.
///
/// # Errors
///
/// When its hypervisor does not answer.
pub fn shut_down(record: &Record, folder: &Path, grace: Duration) -> Result<bool> {
    life(driver(record)?.as_ref())?.shut_down(folder, grace)
}

/// Whether it is off.
///
/// # Errors
///
/// When its hypervisor does not answer.
pub fn is_off(record: &Record, folder: &Path) -> Result<bool> {
    Ok(life(driver(record)?.as_ref())?.state(folder)? == Power::Off)
}

/// Ends the machine, without asking its guest: what it writes is thrown away. One that is off is no error. What becomes of
/// the moving of its disks, if they were being moved.
///
/// # Errors
///
/// When it does not end, or what was begun to be moved cannot be removed.
pub fn stop(record: &Record, folder: &Path) -> Result<Option<Settled>> {
    let driver = driver(record)?;
    life(driver.as_ref())?.stop(folder)?;
    settle(driver.as_ref(), folder)
}
