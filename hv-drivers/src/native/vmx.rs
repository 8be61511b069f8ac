//! VMware: a VMX file.

use std::fmt::Write;

use super::{Config, Places, bus, plain_name};
use crate::{
    Result,
    machine::{Bus, Family, Firmware, Mac, Machine, NicModel},
};

/// A value: what has a meaning in the file is written by its code.
fn value(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' | '|' | '#' => {
                let _always = write!(out, "|{:02X}", u32::from(c));
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// The guest's system as VMware calls it: it decides about defaults only.
fn guest_os(machine: &Machine) -> String {
    let os = machine.guest_os.as_deref().unwrap_or_default().to_ascii_lowercase();
    let digits = |after: &str| -> Option<String> {
        let rest = os.split_once(after)?.1.trim_start_matches(['-', ' ']);
        let digits: String = rest.chars().take_while(char::is_ascii_digit).take(4).collect();
        (!digits.is_empty()).then_some(digits)
    };
    if os.ends_with("-64") && os.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return os;
    }
    if machine.family() == Family::Windows {
        let known = [
            ("2025", "windows2022srvNext-64"),
            ("2022", "windows2019srvNext-64"),
            ("2019", "windows2019srv-64"),
            ("2016", "windows9srv-64"),
            ("2012", "windows8srv-64"),
            ("11", "windows11-64"),
            ("10", "windows9-64"),
        ];
        let found = known.iter().find(|(version, _)| os.contains(version));
        return found.map_or("windows2019srv-64", |(_, name)| name).to_owned();
    }
    for (name, vmware) in [("debian", "debian"), ("rhel", "rhel"), ("centos", "centos"), ("sles", "sles")] {
        if let Some(version) = digits(name) {
            return format!("{vmware}{version}-64");
        }
    }
    if os.contains("ubuntu") { "ubuntu-64".into() } else { "other5xlinux-64".into() }
}

pub fn write(machine: &Machine, disks: &[String]) -> Result<Config> {
    let mut notes = Vec::new();
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut set = |key: &str, text: &str| lines.push((key.to_owned(), value(text)));
    let firmware = machine.firmware.unwrap_or(Firmware::Bios);
    set(".encoding", "UTF-8");
    set("config.version", "8");
    set("virtualHW.version", "14");
    set("displayName", &machine.name);
    set("guestOS", &guest_os(machine));
    set("firmware", if firmware.is_uefi() { "efi" } else { "bios" });
    if firmware == Firmware::SecureBoot {
        set("uefi.secureBoot.enabled", "TRUE");
    }
    if let Some(uuid) = &machine.uuid {
        let hex: Vec<char> = uuid.chars().filter(char::is_ascii_hexdigit).collect();
        let pairs: Vec<String> = hex.chunks(2).map(|pair| pair.iter().collect()).collect();
        if let (Some(head), Some(tail)) = (pairs.get(..8), pairs.get(8..16)) {
            set("uuid.bios", &format!("{}-{}", head.join(" "), tail.join(" ")));
        }
    }
    set("numvcpus", &machine.cpus.count().to_string());
    set("cpuid.coresPerSocket", &machine.cpus.cores.saturating_mul(machine.cpus.threads).to_string());
    // It has to be a multiple of 4.
    set("memSize", &machine.memory_mib.next_multiple_of(4).to_string());
    set("disk.EnableUUID", "TRUE");
    set("pciBridge0.present", "TRUE");
    for bridge in 4..8 {
        set(&format!("pciBridge{bridge}.present"), "TRUE");
        set(&format!("pciBridge{bridge}.virtualDev"), "pcieRootPort");
        set(&format!("pciBridge{bridge}.functions"), "8");
    }
    let there = [Bus::Pvscsi, Bus::LsiSas, Bus::LsiParallel, Bus::BusLogic, Bus::Sata, Bus::Ide, Bus::Nvme];
    let (mut places, mut controllers) = (Places::default(), Vec::<&'static str>::new());
    for (number, file) in disks.iter().enumerate() {
        let kind = match bus(machine, number, &there, Bus::Pvscsi, Bus::LsiSas, &mut notes) {
            Bus::LsiSas => "lsisas1068",
            Bus::LsiParallel => "lsilogic",
            Bus::BusLogic => "buslogic",
            Bus::Sata => "sata",
            Bus::Ide => "ide",
            Bus::Nvme => "nvme",
            _ => "pvscsi",
        };
        let is_scsi = !matches!(kind, "sata" | "ide" | "nvme");
        let place = places.next(
            kind,
            if is_scsi {
                15
            } else if kind == "ide" {
                4
            } else {
                15
            },
        )?;
        let name = if is_scsi {
            let scsi = match controllers.iter().position(|c| *c == kind) {
                Some(known) => known,
                None => {
                    let fresh = controllers.len();
                    controllers.push(kind);
                    set(&format!("scsi{fresh}.present"), "TRUE");
                    set(&format!("scsi{fresh}.virtualDev"), kind);
                    fresh
                }
            };
            // Unit 7 is the controller's own.
            format!("scsi{scsi}:{}", if place >= 7 { place + 1 } else { place })
        } else if kind == "ide" {
            format!("ide{}:{}", place / 2, place % 2)
        } else {
            if place == 0 {
                set(&format!("{kind}0.present"), "TRUE");
            }
            format!("{kind}0:{place}")
        };
        set(&format!("{name}.present"), "TRUE");
        set(&format!("{name}.fileName"), file);
        set(&format!("{name}.deviceType"), if is_scsi { "scsi-hardDisk" } else { "disk" });
    }
    for (number, nic) in machine.nics.iter().enumerate().take(10) {
        let model = match (nic.model, machine.family()) {
            (Some(NicModel::E1000), _) => "e1000",
            (Some(NicModel::E1000e), _) => "e1000e",
            (Some(NicModel::Vmxnet3), _) | (_, Family::Unix) => "vmxnet3",
            (_, Family::Windows) => "e1000e",
        };
        set(&format!("ethernet{number}.present"), "TRUE");
        set(&format!("ethernet{number}.virtualDev"), model);
        set(&format!("ethernet{number}.networkName"), nic.network.as_deref().unwrap_or("VM Network"));
        // A copy beside the original must not take its address: the admin connects it.
        set(&format!("ethernet{number}.startConnected"), "FALSE");
        match nic.mac {
            Some(mac) => {
                set(&format!("ethernet{number}.addressType"), "static");
                set(&format!("ethernet{number}.address"), &mac.to_string());
                if !is_static_range(mac) {
                    set(&format!("ethernet{number}.checkMACAddress"), "FALSE");
                }
            }
            None => set(&format!("ethernet{number}.addressType"), "generated"),
        }
    }
    set("nvram", &format!("{}.nvram", plain_name(&machine.name)));
    set("toolScripts.afterPowerOn", "TRUE");
    let mut text = String::new();
    for (key, value) in lines {
        let _always = writeln!(text, "{key} = \"{value}\"");
    }
    Ok(Config { text, notes })
}

/// Whether VMware takes it for a static address: 00:50:56:00:00:00 to 00:50:56:3f:ff:ff.
fn is_static_range(mac: Mac) -> bool {
    matches!(mac.bytes(), [0x00, 0x50, 0x56, 0x00..=0x3f, ..])
}
