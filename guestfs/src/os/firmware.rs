//! What a machine's disks can be booted with.

use blockdev::partitions::{Scheme, Volume};

use super::{Firmware, Machine};
use crate::resolve::View;

/// What partitions that UEFI starts from are called.
const ESP: &str = "EFI system";

fn is(volume: &Volume, kind: &str) -> bool {
    volume.kind.as_ref().is_some_and(|k| k.name == kind)
}

/// A hint of the disks alone: an EFI system partition with a loader in it, and a boot sector that would be taken.
pub fn of(machine: Machine<'_>) -> Option<Firmware> {
    let has_loader = machine.volumes.iter().any(|(volume, fs)| {
        let view = View::new(fs.clone(), fs.root()).ignoring_case();
        is(volume, ESP) && matches!(view.find(b"EFI"), Ok(Some(_)))
    });
    let is_booted = machine.volumes.iter().any(|(volume, _)| volume.active || is(volume, "BIOS boot"));
    match (has_loader, is_booted) {
        (true, true) => Some(Firmware::Either),
        (true, false) => Some(Firmware::Uefi),
        (false, true) => Some(Firmware::Bios),
        (false, false) => None,
    }
}

/// What the partition tables alone tell, where nothing in the partitions does.
pub fn of_tables(volumes: &[Volume]) -> Option<Firmware> {
    let has_esp = volumes.iter().any(|v| v.scheme == Scheme::Gpt && is(v, ESP));
    let is_booted = volumes.iter().any(|v| v.active || is(v, "BIOS boot"));
    match (has_esp, is_booted) {
        (true, true) => Some(Firmware::Either),
        (true, false) => Some(Firmware::Uefi),
        (false, true) => Some(Firmware::Bios),
        (false, false) => None,
    }
}
