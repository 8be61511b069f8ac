//! What a running QEMU says its machine is made of.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use super::{Attached, blocks};
use crate::{
    Result,
    driver::{Inspected, LiveDisk, State},
    machine::{Bus, Chipset, Controller, Cpus, Disk, Firmware, Mac, Machine, Nic, NicModel, Source},
    qmp::{Agent, Client},
};

/// How long the guest's agent may take to tell its system's name: nothing depends on it.
const AGENT: Duration = Duration::from_secs(3);
/// Devices that are looked at.
const PARTS_MAX: usize = 1000;
/// The longest command line that is kept, in bytes.
const COMMAND_MAX: usize = 256 << 10;

/// The machine behind `monitor`.
///
/// # Errors
///
/// When QEMU does not answer.
pub fn inspect(attached: &Attached, monitor: &mut Client) -> Result<Inspected> {
    let found = blocks::disks(monitor)?;
    let (major, minor) = monitor.version();
    let mut machine = Machine::new(&attached.name, found.disks.iter().map(|disk| described(monitor, disk)));
    machine.controllers = controllers(monitor, &machine.disks);
    machine.uuid = ask(monitor, "query-uuid").pointer("/UUID").and_then(Value::as_str).map(str::to_owned);
    machine.firmware = Some(if has_flash(monitor) { Firmware::Uefi } else { Firmware::Bios });
    machine.chipset = property(monitor, "/machine", "type").as_str().and_then(chipset);
    if let Some(cpus) = ask(monitor, "query-cpus-fast").as_array() {
        machine.cpus = topology(cpus);
    }
    if let Some(bytes) = ask(monitor, "query-memory-size-summary").pointer("/base-memory").and_then(Value::as_u64) {
        machine.memory_mib = (bytes >> 20).max(1);
    }
    machine.nics = nics(monitor);
    machine.guest_os = attached.agent.as_ref().and_then(|socket| Agent::connect(socket, AGENT).ok()?.info().ok()?.os);
    machine.source = Some(Source {
        hypervisor: Some("qemu".to_owned()),
        id: Some(attached.name.clone()),
        version: Some(format!("{major}.{minor}")),
    });
    let status = ask(monitor, "query-status");
    let state = match status.get("status").and_then(Value::as_str) {
        Some("running") => State::Running,
        Some(other) => State::Paused(other.to_owned()),
        None => State::Paused("unknown".to_owned()),
    };
    let live = |disk: &blocks::Disk| LiveDisk { name: disk.name.clone(), size: disk.size, place: disk.place.clone() };
    Ok(Inspected {
        // What it tells is a guest's host's word: bounded like any other description.
        machine: Machine::read(machine.write().as_bytes())?,
        native: command_line(monitor).map(|text| ("qemu.cmdline".to_owned(), text)).into_iter().collect(),
        state,
        disks: found.disks.iter().map(live).collect(),
        left_out: found.left_out,
    })
}

/// What a command returns; nothing of the description is worth failing for.
fn ask(monitor: &mut Client, command: &str) -> Value {
    monitor.execute(command, &json!({})).unwrap_or(Value::Null)
}

fn property(monitor: &mut Client, path: &str, property: &str) -> Value {
    monitor.execute("qom-get", &json!({ "path": path, "property": property })).unwrap_or(Value::Null)
}

/// The objects that were given a name: their names and kinds.
fn peripherals(monitor: &mut Client) -> Vec<(String, String)> {
    let all = monitor.execute("qom-list", &json!({ "path": "/machine/peripheral" })).unwrap_or(Value::Null);
    let entry = |entry: &Value| {
        let kind = entry.get("type")?.as_str()?.strip_prefix("child<")?.strip_suffix('>')?;
        Some((entry.get("name")?.as_str()?.to_owned(), kind.to_owned()))
    };
    all.as_array().into_iter().flatten().filter_map(entry).take(PARTS_MAX).collect()
}

/// The object of ours that `path` leads to: `/machine/peripheral/scsihw0/...` is `scsihw0`.
fn named(path: &str) -> Option<&str> {
    path.strip_prefix("/machine/peripheral/")?.split('/').next()
}

fn described(monitor: &mut Client, disk: &blocks::Disk) -> Disk {
    let own = disk.device.strip_suffix("/virtio-backend").unwrap_or(&disk.device);
    let kind = property(monitor, own, "type");
    let parent = property(monitor, own, "parent_bus");
    let controller = parent.as_str().and_then(named).map(str::to_owned);
    let number = |value: Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let is_scsi = kind.as_str().is_some_and(|kind| kind.starts_with("scsi-"));
    let boot = number(property(monitor, own, "bootindex")).map(|n| n.saturating_add(1));
    Disk {
        name: Some(disk.name.clone()),
        bus: kind
            .as_str()
            .and_then(Bus::of_name)
            .or_else(|| kind.as_str().filter(|k| k.starts_with("ide-")).map(|_| Bus::Ide)),
        controller: if is_scsi { controller } else { None },
        unit: if is_scsi { number(property(monitor, own, "scsi-id")) } else { None },
        boot,
        serial: property(monitor, own, "serial").as_str().filter(|s| !s.is_empty()).map(str::to_owned),
        size: Some(disk.size),
        ..Disk::default()
    }
}

/// The controllers that disks name.
fn controllers(monitor: &mut Client, disks: &[Disk]) -> Vec<Controller> {
    let wanted = |id: &str| disks.iter().any(|disk| disk.controller.as_deref() == Some(id));
    let all = peripherals(monitor).into_iter().filter(|(id, _)| wanted(id));
    all.filter_map(|(id, kind)| Some(Controller { id, kind: Bus::of_name(&kind)? })).collect()
}

fn nics(monitor: &mut Client) -> Vec<Nic> {
    let mut nics = Vec::new();
    for (id, kind) in peripherals(monitor) {
        let path = format!("/machine/peripheral/{id}");
        if let Some(model) = NicModel::of_name(&kind)
            && let Some(mac) = property(monitor, &path, "mac").as_str().and_then(Mac::parse)
        {
            nics.push(Nic { mac: Some(mac), model: Some(model), network: None });
        }
    }
    nics
}

fn has_flash(monitor: &mut Client) -> bool {
    property(monitor, "/machine", "pflash0").as_str().is_some_and(|node| !node.is_empty())
}

/// `pc-q35-7.2-machine`.
fn chipset(kind: &str) -> Option<Chipset> {
    match kind {
        kind if kind.contains("q35") => Some(Chipset::Q35),
        kind if kind.starts_with("pc") => Some(Chipset::I440fx),
        _ => None,
    }
}

/// The processors' sockets, cores and threads, which QEMU tells of each.
fn topology(cpus: &[Value]) -> Cpus {
    let count = |property: &str| {
        let of = |cpu: &Value| cpu.pointer("/props").and_then(|p| p.get(property)).and_then(Value::as_u64);
        let highest = cpus.iter().filter_map(of).max().unwrap_or(0);
        u32::try_from(highest.saturating_add(1)).unwrap_or(1)
    };
    let told = Cpus { sockets: count("socket-id"), cores: count("core-id"), threads: count("thread-id") };
    let all = u32::try_from(cpus.len()).unwrap_or(1).max(1);
    if told.count() == all { told } else { Cpus { sockets: 1, cores: all, threads: 1 } }
}

/// The command line that QEMU was started with, a word a line; `None` where the system does not tell.
fn command_line(monitor: &Client) -> Option<Vec<u8>> {
    let mut text = fs::read(format!("/proc/{}/cmdline", monitor.process()?)).ok()?;
    text.truncate(COMMAND_MAX);
    let is_qemu = text.split(|b| *b == 0).next()?.windows(4).any(|w| w == b"qemu");
    text.iter_mut().filter(|b| **b == 0).for_each(|b| *b = b'\n');
    is_qemu.then_some(text)
}
