//! Windows, by its registry.

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{
    BlockDevice, Result,
    fields::{guid, le32, le64, slice},
    partitions::Volume,
};

use super::{Family, Firmware, Machine, MountPoint, System, registry::Hive, shown};
use crate::{FileSystem, resolve::View};

/// Where the hives are: Windows 2000 and before had another folder.
const CONFIG: [&str; 2] = ["Windows/System32/config", "WINNT/System32/config"];

/// The key with the version, in the hive SOFTWARE.
const VERSION: &str = r"Microsoft\Windows NT\CurrentVersion";

/// Windows 11 begins with this build; its product name still says 10.
const WINDOWS_11: u32 = 22_000;

/// Bytes of the names of drives in `MountedDevices`.
const DRIVE: &str = r"\DosDevices\";

/// The Windows on volume number `volume`.
pub fn identify(machine: Machine<'_>, volume: usize) -> Option<System> {
    let (_, fs) = machine.volumes.get(volume)?;
    let view = View::new(Arc::clone(fs), fs.root()).ignoring_case();
    let config = CONFIG.into_iter().find(|c| matches!(view.find(format!("{c}/SYSTEM").as_bytes()), Ok(Some(_))))?;
    let mut system = System::new(Family::Windows, "Windows".to_owned());
    let mut letter = None;
    if let Some(hive) = hive(&view, config, "SOFTWARE", &mut system)
        && let Err(e) = software(&hive, &mut system, &mut letter)
    {
        system.failed("hive SOFTWARE", &e);
    }
    if let Some(hive) = hive(&view, config, "SYSTEM", &mut system) {
        if let Err(e) = configuration(&hive, &mut system) {
            system.failed("hive SYSTEM", &e);
        }
        if let Err(e) = drives(&hive, machine, &mut system) {
            system.failed("hive SYSTEM, drive letters", &e);
        }
    }
    // The volume it runs from is there in any case: a machine that was generalised has forgotten its letters.
    if system.mounts.iter().all(|mount| mount.volume != volume) {
        let path = letter.unwrap_or_else(|| "C:".to_owned()).into_bytes();
        system.mounts.retain(|mount| mount.path != path);
        system.mounts.push(whole(path, volume, fs));
    }
    system.mounts.sort_by(|a, b| a.path.cmp(&b.path));
    Some(system)
}

/// The hive `name` with its logs.
fn hive(view: &View, config: &str, name: &str, system: &mut System) -> Option<Hive> {
    let open = |name: &str| -> Result<Option<Arc<dyn BlockDevice>>> {
        let file = view.open(format!("{config}/{name}").as_bytes())?;
        Ok(file.map(|file| Arc::new(file) as Arc<dyn BlockDevice>))
    };
    let hive = || -> Result<Option<Hive>> {
        let Some(file) = open(name)? else { return Ok(None) };
        // A log that cannot be opened completes nothing, which the hive notes.
        let logs = [".LOG1", ".LOG2", ".LOG"].iter().filter_map(|log| open(&format!("{name}{log}")).ok().flatten());
        Hive::open(file, &logs.collect::<Vec<_>>()).map(Some)
    };
    let hive = system.noted(&format!("hive {name}"), hive());
    let notes = hive.iter().flat_map(Hive::notes).map(|note| format!("hive {name}: {note}"));
    system.notes.extend(notes);
    hive
}

/// Adds what SOFTWARE says: name and version; `letter` becomes that of the drive that Windows runs from.
fn software(hive: &Hive, system: &mut System, letter: &mut Option<String>) -> Result<()> {
    let Some(key) = hive.key(VERSION)? else { return Ok(()) };
    let text = |name: &str| key.value(name).ok().flatten().and_then(|value| shown(value.text()?.as_bytes()));
    let number = |name: &str| key.value(name).ok().flatten().and_then(|value| value.number());
    let build = text("CurrentBuild").or_else(|| text("CurrentBuildNumber"));
    let number_of_build: u32 = build.as_ref().and_then(|build| build.parse().ok()).unwrap_or_default();
    if let Some(name) = text("ProductName") {
        system.name = match name.strip_prefix("Windows 10") {
            Some(edition) if number_of_build >= WINDOWS_11 => format!("Windows 11{edition}"),
            _ => name,
        };
    } else if let Some(edition) = text("EditionID") {
        system.name = format!("Windows {edition}");
    }
    // Since Windows 10 the text stands still at 6.3, and the numbers count.
    let release = match (number("CurrentMajorVersionNumber"), number("CurrentMinorVersionNumber")) {
        (Some(major), minor) => Some(format!("{major}.{}", minor.unwrap_or_default())),
        _ => text("CurrentVersion"),
    };
    let revision = number("UBR").map(|revision| revision.to_string());
    let parts: Vec<String> = [release, build, revision].into_iter().map_while(|part| part).collect();
    let called = text("DisplayVersion").or_else(|| text("ReleaseId")).or_else(|| text("CSDVersion"));
    if !parts.is_empty() {
        system.version = Some(match called {
            Some(called) => format!("{} ({called})", parts.join(".")),
            None => parts.join("."),
        });
    }
    *letter = text("SystemRoot").and_then(|root| drive(root.get(..2)?));
    Ok(())
}

/// Adds what SYSTEM says of the machine.
fn configuration(hive: &Hive, system: &mut System) -> Result<()> {
    let current = hive.value("Select", "Current")?.and_then(|value| value.number()).unwrap_or(1);
    let Some(set) = hive.key(&format!("ControlSet{current:03}"))? else { return Ok(()) };
    let value = |path: &str, name: &str| {
        let mut key = set.clone();
        for name in path.split('\\') {
            key = key.subkey(name).ok()??;
        }
        key.value(name).ok()?
    };
    let text = |path: &str, name: &str| value(path, name).and_then(|value| shown(value.text()?.as_bytes()));
    // The name as it was given; the computer's name is made of its first 15 characters in upper case.
    system.hostname = text(r"Services\Tcpip\Parameters", "NV Hostname")
        .or_else(|| text(r"Services\Tcpip\Parameters", "Hostname"))
        .or_else(|| text(r"Control\ComputerName\ComputerName", "ComputerName"));
    let architecture = text(r"Control\Session Manager\Environment", "PROCESSOR_ARCHITECTURE");
    system.architecture = architecture.map(|name| match name.to_ascii_uppercase().as_str() {
        "AMD64" => "x86_64".to_owned(),
        "X86" => "i686".to_owned(),
        "ARM64" => "aarch64".to_owned(),
        "ARM" => "arm".to_owned(),
        "IA64" => "ia64".to_owned(),
        _ => name,
    });
    system.firmware = match value("Control", "PEFirmwareType").and_then(|value| value.number()) {
        Some(1) => Some(Firmware::Bios),
        Some(2) => Some(Firmware::Uefi),
        _ => None,
    };
    Ok(())
}

/// Adds the drives whose volume is at hand.
fn drives(hive: &Hive, machine: Machine<'_>, system: &mut System) -> Result<()> {
    let Some(key) = hive.key("MountedDevices")? else { return Ok(()) };
    key.values(&mut |value| {
        if let Ok(value) = value
            && let Some(name) = value.name.get(..DRIVE.len()).filter(|name| name.eq_ignore_ascii_case(DRIVE))
            && let Some(path) = value.name.get(name.len()..).and_then(drive).map(String::into_bytes)
            && let Some(volume) = machine.volumes.iter().position(|(v, _)| is_meant(machine, v, &value.data))
            && let Some((_, fs)) = machine.volumes.get(volume)
            && system.mounts.iter().all(|mount| mount.path != path)
        {
            system.mounts.push(whole(path, volume, fs));
        }
        ControlFlow::Continue(())
    })
}

/// Whether `volume` is the one that `data` of `MountedDevices` means: by the GUID of its partition, or by the signature of
/// its disk and its place there. Other data name devices that are no disks.
fn is_meant(machine: Machine<'_>, volume: &Volume, data: &[u8]) -> bool {
    const GPT: &[u8] = b"DMIO:ID:";
    // Volumes that are put together begin nowhere.
    let Some(start) = volume.start else { return false };
    if data.starts_with(GPT) && data.len() == GPT.len() + 16 {
        let id = guid(data, GPT.len());
        return id.is_some() && id == volume.uuid;
    }
    let signature = format!("{:08x}", le32(slice(data, 0, 4), 0));
    let disk = machine.disks.iter().find(|disk| Some(&disk.name) == volume.disks.first());
    data.len() == 12 && le64(data, 4) == start && disk.is_some_and(|disk| disk.id.as_ref() == Some(&signature))
}

/// `c:` as it is written: in upper case.
fn drive(name: &str) -> Option<String> {
    match name.as_bytes() {
        [letter, b':'] if letter.is_ascii_alphabetic() => Some(name.to_ascii_uppercase()),
        _ => None,
    }
}

fn whole(path: Vec<u8>, volume: usize, fs: &Arc<dyn FileSystem>) -> MountPoint {
    MountPoint { path, volume, subdirectory: Vec::new(), directory: fs.root() }
}
