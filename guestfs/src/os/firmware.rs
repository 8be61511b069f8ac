//! What a machine's disks can be booted with.

use crate::resolve::View;

use super::{Firmware, Machine};

/// A hint of the disks alone: an EFI system partition with a loader in it, and a boot sector that would be taken.
pub fn of(machine: Machine<'_>) -> Option<Firmware> {
    let is = |kind: &str| machine.volumes.iter().any(|(v, _)| v.kind.as_ref().is_some_and(|k| k.name == kind));
    let has_loader = machine.volumes.iter().any(|(volume, fs)| {
        let is_esp = volume.kind.as_ref().is_some_and(|kind| kind.name == "EFI system");
        let view = View::new(fs.clone(), fs.root()).ignoring_case();
        is_esp && matches!(view.find(b"EFI"), Ok(Some(_)))
    });
    let is_booted = machine.volumes.iter().any(|(volume, _)| volume.active) || is("BIOS boot");
    match (has_loader, is_booted) {
        (true, true) => Some(Firmware::Either),
        (true, false) => Some(Firmware::Uefi),
        (false, true) => Some(Firmware::Bios),
        (false, false) => None,
    }
}
