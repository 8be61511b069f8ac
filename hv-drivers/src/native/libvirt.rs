//! libvirt: the XML of a domain, for `virsh define`.

use std::fmt::Write;

use quick_xml::escape::escape;

use super::{Config, Places, bus};
use crate::{
    Result,
    machine::{Bus, Chipset, Family, Firmware, Machine, NicModel},
};

pub fn write(machine: &Machine, disks: &[String]) -> Result<Config> {
    let mut notes = Vec::new();
    let firmware = machine.firmware.unwrap_or(Firmware::Bios);
    let is_windows = machine.family() == Family::Windows;
    let there =
        [Bus::VirtioBlk, Bus::VirtioScsi, Bus::Pvscsi, Bus::LsiSas, Bus::Lsi53c895a, Bus::MegaSas, Bus::Sata, Bus::Ide];
    let buses: Vec<Bus> =
        (0..disks.len()).map(|n| bus(machine, n, &there, Bus::VirtioScsi, Bus::Sata, &mut notes)).collect();
    let has_ide = buses.contains(&Bus::Ide);
    let usual = if firmware.is_uefi() && !has_ide { Chipset::Q35 } else { Chipset::I440fx };
    let board = match firmware {
        Firmware::SecureBoot => Chipset::Q35,
        _ => machine.chipset.unwrap_or(usual),
    };
    let mut text = String::new();
    let mut line = |depth: usize, line: &str| {
        let _always = writeln!(text, "{:depth$}{line}", "", depth = 2 * depth);
    };
    line(0, "<domain type='kvm'>");
    line(1, &format!("<name>{}</name>", escape(machine.name.replace('/', "_"))));
    if let Some(uuid) = &machine.uuid {
        line(1, &format!("<uuid>{}</uuid>", escape(uuid)));
    }
    line(1, &format!("<memory unit='MiB'>{}</memory>", machine.memory_mib));
    line(1, &format!("<vcpu>{}</vcpu>", machine.cpus.count()));
    line(1, if firmware.is_uefi() { "<os firmware='efi'>" } else { "<os>" });
    line(2, &format!("<type arch='x86_64' machine='{}'>hvm</type>", if board == Chipset::Q35 { "q35" } else { "pc" }));
    if firmware.is_uefi() {
        let secure = if firmware == Firmware::SecureBoot { "yes" } else { "no" };
        line(2, "<firmware>");
        line(3, &format!("<feature enabled='{secure}' name='secure-boot'/>"));
        line(3, &format!("<feature enabled='{secure}' name='enrolled-keys'/>"));
        line(2, "</firmware>");
    }
    line(1, "</os>");
    line(1, "<features>");
    line(2, "<acpi/>");
    line(2, "<apic/>");
    if is_windows {
        line(2, "<hyperv>");
        line(3, "<relaxed state='on'/>");
        line(3, "<vapic state='on'/>");
        line(3, "<spinlocks state='on' retries='8191'/>");
        line(2, "</hyperv>");
    }
    if firmware == Firmware::SecureBoot {
        line(2, "<smm state='on'/>");
    }
    line(1, "</features>");
    let cpus = machine.cpus;
    line(1, "<cpu mode='host-model'>");
    line(2, &format!("<topology sockets='{}' cores='{}' threads='{}'/>", cpus.sockets, cpus.cores, cpus.threads));
    line(1, "</cpu>");
    line(1, &format!("<clock offset='{}'/>", if is_windows { "localtime" } else { "utc" }));
    line(1, "<on_poweroff>destroy</on_poweroff>");
    line(1, "<on_reboot>restart</on_reboot>");
    line(1, "<on_crash>restart</on_crash>");
    line(1, "<devices>");
    let order = machine.boot_order();
    let mut places = Places::default();
    let mut controllers: Vec<Bus> = Vec::new();
    for (number, (file, bus)) in disks.iter().zip(&buses).enumerate() {
        let (prefix, kind, most) = match bus {
            Bus::VirtioBlk => ("vd", "virtio", 16),
            Bus::Sata => ("sd", "sata", 6),
            Bus::Ide => ("hd", "ide", 4),
            _ => ("sd", "scsi", 100),
        };
        // Disks of SATA and SCSI share their names.
        let unit = places.next(kind, most)?;
        let letter = places.next(prefix, 702)?;
        if kind == "scsi" && !controllers.contains(bus) {
            controllers.push(*bus);
        }
        let controller = controllers.iter().position(|c| c == bus).unwrap_or(0);
        let format = if file.ends_with(".qcow2") { "qcow2" } else { "raw" };
        let boot = order.iter().position(|n| *n == number).unwrap_or(number) + 1;
        line(2, "<disk type='file' device='disk'>");
        line(3, &format!("<driver name='qemu' type='{format}' discard='unmap'/>"));
        line(3, &format!("<source file='{}'/>", escape(file)));
        line(3, &format!("<target dev='{prefix}{}' bus='{kind}'/>", letters(letter)));
        if let Some(serial) = machine.disks.get(number).and_then(|disk| disk.serial.as_ref()) {
            let serial: String =
                serial.chars().filter(|c| c.is_ascii_alphanumeric() || "_. -".contains(*c)).take(20).collect();
            line(3, &format!("<serial>{serial}</serial>"));
        }
        line(3, &format!("<boot order='{boot}'/>"));
        if kind == "scsi" {
            line(3, &format!("<address type='drive' controller='{controller}' bus='0' target='0' unit='{unit}'/>"));
        }
        line(2, "</disk>");
    }
    for (index, bus) in controllers.iter().enumerate() {
        let model = match bus {
            Bus::Pvscsi => "vmpvscsi",
            Bus::LsiSas => "lsisas1068",
            Bus::Lsi53c895a => "lsilogic",
            Bus::MegaSas => "lsisas1078",
            _ => "virtio-scsi",
        };
        line(2, &format!("<controller type='scsi' index='{index}' model='{model}'/>"));
    }
    for nic in machine.nics.iter().take(32) {
        let model = match (nic.model, machine.family()) {
            (Some(NicModel::Netvsc) | None, Family::Windows) => "e1000e",
            (Some(NicModel::Netvsc | NicModel::Virtio) | None, _) => "virtio",
            (Some(model), _) => model.name(),
        };
        line(2, "<interface type='network'>");
        if let Some(mac) = nic.mac {
            line(3, &format!("<mac address='{mac}'/>"));
        }
        line(3, "<source network='default'/>");
        line(3, &format!("<model type='{model}'/>"));
        // A copy beside the original must not take its address: the admin connects it.
        line(3, "<link state='down'/>");
        line(2, "</interface>");
    }
    line(2, "<serial type='pty'/>");
    line(2, "<channel type='unix'>");
    line(3, "<target type='virtio' name='org.qemu.guest_agent.0'/>");
    line(2, "</channel>");
    line(2, "<graphics type='vnc' listen='127.0.0.1'/>");
    line(2, "<video>");
    line(3, "<model type='vga'/>");
    line(2, "</video>");
    line(1, "</devices>");
    line(0, "</domain>");
    Ok(Config { text, notes })
}

/// The letters of a disk: `a`, … `z`, `aa`, ….
fn letters(number: u32) -> String {
    let letter = |n: u32| char::from(b'a' + u8::try_from(n % 26).unwrap_or(0));
    if number < 26 { letter(number).to_string() } else { [letter(number / 26 - 1), letter(number)].iter().collect() }
}
