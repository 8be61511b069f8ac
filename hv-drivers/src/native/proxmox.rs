//! Proxmox VE: the `qm` commands that make a machine, and the configuration that they leave in
//! `/etc/pve/qemu-server/VMID.conf`.

use std::fmt::Write;

use super::{Config, Places, bus, plain_name};
use crate::{
    Result,
    machine::{Bus, Chipset, Family, Firmware, Machine, NicModel},
};

/// What a shell takes for one word, whatever is in it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The kind of system, in Proxmox's words.
fn os_type(machine: &Machine) -> &'static str {
    let os = machine.guest_os.as_deref().unwrap_or_default().to_ascii_lowercase();
    let has = |what: &[&str]| what.iter().any(|w| os.contains(w));
    match machine.family() {
        Family::Windows if has(&["11", "2022", "2025", "2k22", "2k25"]) => "win11",
        Family::Windows if has(&["2019", "2016", "2k19", "2k16", "10"]) => "win10",
        Family::Windows if has(&["2012", "2k12", "8"]) => "win8",
        Family::Windows if has(&["2008", "2k8", "7"]) => "win7",
        Family::Windows => "win10",
        Family::Unix if has(&["bsd", "solaris"]) => "other",
        Family::Unix => "l26",
    }
}

pub fn write(machine: &Machine, disks: &[String]) -> Result<Config> {
    let mut notes = Vec::new();
    let firmware = machine.firmware.unwrap_or(Firmware::Bios);
    let q35 = machine.chipset == Some(Chipset::Q35) || (machine.chipset.is_none() && firmware.is_uefi());
    let there = [Bus::VirtioBlk, Bus::VirtioScsi, Bus::Pvscsi, Bus::MegaSas, Bus::Lsi53c895a, Bus::Sata, Bus::Ide];
    let buses: Vec<Bus> =
        (0..disks.len()).map(|n| bus(machine, n, &there, Bus::VirtioScsi, Bus::Sata, &mut notes)).collect();
    // There is one kind of SCSI controller: that of the first disk on one.
    let controller = |bus: Bus| match bus {
        Bus::VirtioScsi => Some("virtio-scsi-single"),
        Bus::Pvscsi => Some("pvscsi"),
        Bus::MegaSas => Some("megasas"),
        Bus::Lsi53c895a => Some("lsi"),
        _ => None,
    };
    let scsi = buses.iter().find_map(|bus| controller(*bus)).unwrap_or("virtio-scsi-single");
    let mut places = Places::default();
    let mut keys = Vec::new();
    for (number, bus) in buses.iter().enumerate() {
        if controller(*bus).is_some_and(|kind| kind != scsi) {
            notes.push(format!("disk {number} is on {scsi} instead of {bus}: Proxmox has one kind of SCSI controller"));
        }
        keys.push(match bus {
            Bus::VirtioBlk => format!("virtio{}", places.next("virtio", 16)?),
            Bus::Sata => format!("sata{}", places.next("sata", 6)?),
            Bus::Ide => format!("ide{}", places.next("ide", 4)?),
            _ => format!("scsi{}", places.next("scsi", 31)?),
        });
    }
    let order: Vec<&str> = machine.boot_order().into_iter().filter_map(|n| keys.get(n).map(String::as_str)).collect();
    let mut options: Vec<(String, String)> = vec![
        ("name".into(), plain_name(&machine.name)),
        ("ostype".into(), os_type(machine).into()),
        ("bios".into(), if firmware.is_uefi() { "ovmf".into() } else { "seabios".into() }),
        ("machine".into(), if q35 { "q35".into() } else { "pc".into() }),
        ("sockets".into(), machine.cpus.sockets.to_string()),
        ("cores".into(), machine.cpus.cores.saturating_mul(machine.cpus.threads).to_string()),
        ("memory".into(), machine.memory_mib.to_string()),
        ("scsihw".into(), scsi.into()),
        ("agent".into(), "1".into()),
        ("onboot".into(), "0".into()),
    ];
    if let Some(uuid) = &machine.uuid {
        options.push(("smbios1".into(), format!("uuid={uuid}")));
    }
    if machine.family() == Family::Windows {
        options.push(("localtime".into(), "1".into()));
    }
    let mut nets = Vec::new();
    for (number, nic) in machine.nics.iter().enumerate().take(32) {
        let model = match (nic.model, machine.family()) {
            (Some(NicModel::Netvsc) | None, Family::Windows) => "e1000e",
            (Some(NicModel::Netvsc | NicModel::Virtio) | None, _) => "virtio",
            (Some(model), _) => model.name(),
        };
        let mac = nic.mac.map(|mac| format!("={}", mac.to_string().to_uppercase())).unwrap_or_default();
        nets.push((format!("net{number}"), format!("{model}{mac}"), nic.network.clone()));
    }

    let mut text = String::from("#!/bin/sh\n");
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!(
        "# {} on Proxmox VE: run this on a node. The network cards are there without a link; `qm set`",
        machine.name
    ));
    line("# without link_down=1 connects them, when nothing else in the network has their addresses.".into());
    notes.iter().for_each(|note| line(format!("# note: {note}")));
    line("set -eu".into());
    line("VMID=${VMID:-$(pvesh get /cluster/nextid)}".into());
    line("STORAGE=${STORAGE:-local-lvm}".into());
    line("BRIDGE=${BRIDGE:-vmbr0}".into());
    line(String::new());
    let mut create = String::from("qm create \"$VMID\"");
    for (key, value) in &options {
        let _always = write!(create, " --{key} {}", quoted(value));
    }
    line(create);
    if firmware.is_uefi() {
        let keys = u8::from(firmware == Firmware::SecureBoot);
        line(format!("qm set \"$VMID\" --efidisk0 \"$STORAGE\":1,efitype=4m,pre-enrolled-keys={keys}"));
    }
    for (key, file) in keys.iter().zip(disks) {
        let from = quoted(&format!("0,import-from={file},discard=on"));
        line(format!("qm set \"$VMID\" --{key} \"$STORAGE\":{from}"));
    }
    for (key, card, network) in &nets {
        if let Some(network) = network {
            line(format!("# it was in {network}"));
        }
        line(format!("qm set \"$VMID\" --{key} {card},bridge=\"$BRIDGE\",link_down=1"));
    }
    line(format!("qm set \"$VMID\" --boot 'order={}'", order.join(";")));
    line(String::new());
    line("# What is then in /etc/pve/qemu-server/VMID.conf:".into());
    for (key, value) in &options {
        line(format!("#   {key}: {value}"));
    }
    if firmware.is_uefi() {
        line("#   efidisk0: STORAGE:vm-VMID-disk-0,efitype=4m".into());
    }
    for (number, key) in keys.iter().enumerate() {
        line(format!("#   {key}: STORAGE:vm-VMID-disk-{},discard=on", number + usize::from(firmware.is_uefi())));
    }
    for (key, card, _) in &nets {
        line(format!("#   {key}: {card},bridge=BRIDGE,link_down=1"));
    }
    line(format!("#   boot: order={}", order.join(";")));
    Ok(Config { text, notes })
}
