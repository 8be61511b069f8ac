//! Which of a machine's hardware QEMU has, and what stands for the rest.
//!
//! A guest starts when it finds its root disk: what it was on is what its initramfs or its registry surely knows, so a
//! disk stays on it wherever QEMU has such a controller. Where it has none, a guest of the Unix family gets virtio, whose
//! drivers most of them carry, and Windows, which has none of them, gets SATA and an Intel card.

use std::collections::BTreeMap;

use crate::{
    Error, Result,
    machine::{Bus, Chipset, Family, Firmware, Mac, Machine, NicModel},
};

/// Disks that can each be a device of their own; more of them go on one controller.
const OWN_DEVICES_MAX: usize = 12;
/// Cards that a machine gets.
const NICS_MAX: usize = 8;

/// The hardware of a machine in QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The firmware.
    pub firmware: Firmware,
    /// The board.
    pub chipset: Chipset,
    /// Its disks, in the machine's order.
    pub disks: Vec<PlannedDisk>,
    /// Its cards.
    pub nics: Vec<PlannedNic>,
    /// What is other than described, a sentence each.
    pub notes: Vec<String>,
}

/// A disk's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDisk {
    /// What it hangs on; one that QEMU has.
    pub bus: Bus,
    /// Which of the controllers of that kind.
    pub controller: u32,
    /// Its place there.
    pub unit: u32,
    /// Its place in the boot order, 1 first.
    pub boot: usize,
    /// Its serial number.
    pub serial: Option<String>,
}

/// A card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedNic {
    /// What it is; one that QEMU has.
    pub model: NicModel,
    /// Its address.
    pub mac: Mac,
}

impl Plan {
    /// The hardware of `machine`. `keep_macs`: its cards have the addresses that they had.
    ///
    /// # Errors
    ///
    /// When it has no disk, or a number of them that no machine has.
    pub fn of(machine: &Machine, keep_macs: bool) -> Result<Self> {
        if machine.disks.is_empty() {
            return Err(Error::invalid(format!("the machine {} has no disk to start from", machine.name)));
        }
        let family = machine.family();
        let firmware = machine.firmware.unwrap_or(Firmware::Bios);
        let mut notes = Vec::new();
        let wanted: Vec<Option<Bus>> = machine.disks.iter().map(|disk| machine.bus_of(disk)).collect();
        let chipset = chipset(machine, firmware, &wanted, &mut notes);
        let mut buses: Vec<Bus> = Vec::new();
        for (number, bus) in wanted.iter().enumerate() {
            let got = bus_of(*bus, family, chipset);
            if let Some(bus) = bus.filter(|bus| *bus != got) {
                notes.push(format!("disk {number} is on {got} instead of {bus}, which this machine cannot have"));
            }
            buses.push(got);
        }
        for single in [Bus::VirtioBlk, Bus::Nvme] {
            if buses.iter().filter(|bus| **bus == single).count() > OWN_DEVICES_MAX {
                notes.push(format!("there are more than {OWN_DEVICES_MAX} disks on {single}: they are on virtio-scsi"));
                buses.iter_mut().filter(|bus| **bus == single).for_each(|bus| *bus = Bus::VirtioScsi);
            }
        }
        let mut disks = places(machine, &buses)?;
        for (place, number) in machine.boot_order().into_iter().enumerate() {
            if let Some(disk) = disks.get_mut(number) {
                disk.boot = place + 1;
            }
        }
        let nics = nics(machine, family, keep_macs, &mut notes);
        Ok(Self { firmware, chipset, disks, nics, notes })
    }
}

fn chipset(machine: &Machine, firmware: Firmware, wanted: &[Option<Bus>], notes: &mut Vec<String>) -> Chipset {
    if firmware == Firmware::SecureBoot {
        if machine.chipset == Some(Chipset::I440fx) {
            notes.push("secure boot needs the board q35, which it has instead of i440fx".into());
        }
        return Chipset::Q35;
    }
    let has_ide = wanted.contains(&Some(Bus::Ide));
    let usual = if has_ide || firmware == Firmware::Bios { Chipset::I440fx } else { Chipset::Q35 };
    machine.chipset.unwrap_or(usual)
}

/// What a disk that was on `bus` hangs on here.
fn bus_of(bus: Option<Bus>, family: Family, chipset: Chipset) -> Bus {
    match (bus, family) {
        // The ports that a q35 calls IDE are SATA.
        (Some(Bus::Ide), _) if chipset == Chipset::Q35 => Bus::Sata,
        (Some(Bus::LsiParallel | Bus::BusLogic | Bus::HyperV | Bus::Xen) | None, Family::Windows) => Bus::Sata,
        // Its disks stay `sd*`.
        (Some(Bus::LsiParallel | Bus::BusLogic | Bus::HyperV), Family::Unix) => Bus::VirtioScsi,
        (Some(Bus::Xen) | None, Family::Unix) => Bus::VirtioBlk,
        (Some(bus), _) => bus,
    }
}

/// How many disks a controller of a kind takes.
const fn units(bus: Bus) -> u32 {
    match bus {
        Bus::VirtioBlk | Bus::Nvme => 1,
        Bus::Ide => 4,
        Bus::Sata => 6,
        Bus::LsiSas => 8,
        Bus::Lsi53c895a => 7,
        Bus::Pvscsi | Bus::MegaSas => 60,
        _ => 250,
    }
}

/// The place of each disk: the one it had, if it is free and there is such a one.
fn places(machine: &Machine, buses: &[Bus]) -> Result<Vec<PlannedDisk>> {
    /// Controllers of one kind.
    const CONTROLLERS_MAX: u32 = 8;
    let mut numbers: BTreeMap<(&'static str, Option<&str>), u32> = BTreeMap::new();
    let mut taken = std::collections::BTreeSet::new();
    let mut places = Vec::new();
    for (disk, bus) in machine.disks.iter().zip(buses) {
        let of_kind = numbers.keys().filter(|(kind, _)| *kind == bus.name()).count();
        // Those that are one too many share the last one.
        let next = u32::try_from(of_kind).map_or(CONTROLLERS_MAX - 1, |n| n.min(CONTROLLERS_MAX - 1));
        let told = disk.controller.as_deref().filter(|_| units(*bus) > 1);
        let first = *numbers.entry((bus.name(), told)).or_insert(next);
        let asked = disk.unit.filter(|unit| *unit < units(*bus)).map(|unit| (first, unit));
        let free = |place: &(u32, u32)| !taken.contains(&(bus.name(), place.0, place.1));
        let most = if units(*bus) == 1 { u32::try_from(OWN_DEVICES_MAX).unwrap_or(0) } else { CONTROLLERS_MAX };
        let any = || (0..most).flat_map(|c| (0..units(*bus)).map(move |unit| (c, unit))).find(free);
        // IDE has one controller of four places.
        let any = || any().filter(|(controller, _)| *bus != Bus::Ide || *controller == 0);
        let Some((controller, unit)) = asked.filter(free).or_else(any) else {
            return Err(Error::invalid(format!(
                "the machine {} has more disks on {bus} than QEMU has places",
                machine.name
            )));
        };
        taken.insert((bus.name(), controller, unit));
        let serial = disk.serial.as_deref().map(serial).filter(|serial| !serial.is_empty());
        places.push(PlannedDisk { bus: *bus, controller, unit, boot: 0, serial });
    }
    Ok(places)
}

/// A serial number that every controller takes.
fn serial(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(20).collect()
}

fn nics(machine: &Machine, family: Family, keep_macs: bool, notes: &mut Vec<String>) -> Vec<PlannedNic> {
    if machine.nics.len() > NICS_MAX {
        notes.push(format!("{} network cards: the first {NICS_MAX} are there", machine.nics.len()));
    }
    let plan = |nic: &crate::machine::Nic| {
        let model = match (nic.model, family) {
            (Some(NicModel::Netvsc) | None, Family::Windows) => NicModel::E1000e,
            (Some(NicModel::Netvsc) | None, Family::Unix) => NicModel::Virtio,
            (Some(model), _) => model,
        };
        PlannedNic { model, mac: nic.mac.filter(|_| keep_macs).unwrap_or_else(Mac::random) }
    };
    machine.nics.iter().take(NICS_MAX).map(plan).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Controller, Disk};

    fn machine(disks: &[(Bus, Option<u32>)]) -> Machine {
        let disk = |(bus, unit): &(Bus, Option<u32>)| Disk { bus: Some(*bus), unit: *unit, ..Disk::default() };
        Machine::new("m", disks.iter().map(disk))
    }

    fn places_of(machine: &Machine) -> Vec<(Bus, u32, u32)> {
        let plan = Plan::of(machine, true).expect("a plan");
        plan.disks.iter().map(|d| (d.bus, d.controller, d.unit)).collect()
    }

    #[test]
    fn disks_stay_where_they_were() {
        let mut m =
            machine(&[(Bus::Pvscsi, Some(3)), (Bus::Pvscsi, Some(3)), (Bus::Pvscsi, Some(200)), (Bus::Sata, None)]);
        assert_eq!(places_of(&m), [(Bus::Pvscsi, 0, 3), (Bus::Pvscsi, 0, 0), (Bus::Pvscsi, 0, 1), (Bus::Sata, 0, 0)]);
        m.controllers =
            vec![Controller { id: "a".into(), kind: Bus::Pvscsi }, Controller { id: "b".into(), kind: Bus::Pvscsi }];
        for (disk, name) in m.disks.iter_mut().zip(["a", "b"]) {
            disk.controller = Some(name.into());
        }
        assert_eq!(places_of(&m)[..2], [(Bus::Pvscsi, 0, 3), (Bus::Pvscsi, 1, 3)]);
    }

    #[test]
    fn what_qemu_has_not() {
        let mut m = machine(&[(Bus::HyperV, None), (Bus::LsiParallel, None)]);
        assert!(places_of(&m).iter().all(|(bus, ..)| *bus == Bus::VirtioScsi));
        assert_eq!(Plan::of(&m, true).expect("a plan").notes.len(), 2);
        m.guest_os = Some("windows2019srv-64".into());
        assert!(places_of(&m).iter().all(|(bus, ..)| *bus == Bus::Sata));
        m.firmware = Some(Firmware::SecureBoot);
        m.chipset = Some(Chipset::I440fx);
        assert_eq!(Plan::of(&m, true).expect("a plan").chipset, Chipset::Q35);
        assert!(Plan::of(&machine(&[]), true).is_err());
    }

    #[test]
    fn many_disks() {
        let places = places_of(&machine(&vec![(Bus::Sata, None); 13]));
        assert_eq!(places.last(), Some(&(Bus::Sata, 2, 0)));
        let places = places_of(&machine(&vec![(Bus::VirtioBlk, None); 40]));
        assert_eq!(places.last(), Some(&(Bus::VirtioScsi, 0, 39)));
        assert!(Plan::of(&machine(&vec![(Bus::Ide, None); 5]), true).is_err());
    }
}
