//! Reading a description: by any tool, of any age, or by hand.
//!
//! Nothing in it is believed further than it makes sense: numbers are bounded, text is cut, lists end, and what is left
//! out or odd takes the value that most machines have.

use serde_json::{Map, Value};

use super::{Bus, CPUS, Chipset, Controller, Cpus, Disk, Firmware, MEMORY_MIB, Mac, Machine, Nic, NicModel, Source};

/// Characters of a text that are kept.
const TEXT_MAX: usize = 256;
const CONTROLLERS_MAX: usize = 64;
const DISKS_MAX: usize = 256;
const NICS_MAX: usize = 64;
/// Processors of the largest machine.
const CPUS_MAX: u32 = 1024;
/// Memory of the largest machine: 64 TiB.
const MEMORY_MIB_MAX: u64 = 64 << 20;

/// The machine that `value` describes; `None` when it is no object.
pub fn machine(value: &Value) -> Option<Machine> {
    let fields = value.as_object()?;
    let controllers: Vec<Controller> = list(fields, &["controllers"], CONTROLLERS_MAX, controller);
    let disks = list(fields, &["disks"], DISKS_MAX, disk);
    Some(Machine {
        name: text(fields, &["name", "machine"]).unwrap_or_else(|| "machine".to_owned()),
        uuid: text(fields, &["uuid", "bios_uuid"]).and_then(|u| uuid(&u)),
        firmware: firmware(fields),
        chipset: text(fields, &["machine_type", "chipset"]).and_then(|name| chipset(&name)),
        cpus: cpus(fields),
        memory_mib: memory(fields),
        controllers,
        disks,
        nics: list(fields, &["nics", "networks", "interfaces"], NICS_MAX, nic),
        guest_os: text(fields, &["guest_os", "ostype", "os"]),
        source: fields.get("source").and_then(source),
    })
}

/// Text that is fit to be shown and to be put into a configuration: of one line, not longer than is sensible.
pub fn text_of(text: &str) -> Option<String> {
    let text: String =
        text.trim().chars().take(TEXT_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    (!text.is_empty()).then_some(text)
}

fn text(fields: &Map<String, Value>, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| match fields.get(*key)? {
        Value::String(found) => text_of(found),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

/// A number, or text that is one.
fn number(fields: &Map<String, Value>, keys: &[&str]) -> Option<u64> {
    keys.iter().find_map(|key| match fields.get(*key)? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    })
}

fn small(fields: &Map<String, Value>, keys: &[&str], max: u32) -> Option<u32> {
    number(fields, keys).and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= max)
}

fn list<T>(fields: &Map<String, Value>, keys: &[&str], max: usize, of: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let found = keys.iter().find_map(|key| fields.get(*key)?.as_array());
    found.into_iter().flatten().take(max).filter_map(of).collect()
}

fn uuid(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | '{' | '}' | ' ')).collect();
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) || digits.bytes().all(|b| b == b'0') {
        return None;
    }
    let digits = digits.to_ascii_lowercase();
    let parts: Vec<&str> = [0..8, 8..12, 12..16, 16..20, 20..32].into_iter().filter_map(|r| digits.get(r)).collect();
    Some(parts.join("-"))
}

fn firmware(fields: &Map<String, Value>) -> Option<Firmware> {
    let named = match fields.get("firmware")? {
        Value::Object(object) => text(object, &["type", "kind"]),
        _ => text(fields, &["firmware"]),
    };
    let named = Firmware::of_name(&named?)?;
    let is_secure = fields.get("secure_boot").and_then(Value::as_bool) == Some(true);
    Some(if is_secure && named.is_uefi() { Firmware::SecureBoot } else { named })
}

/// `pc-q35-7.2`, `pc-i440fx-9.0+pve0` and `q35` name boards.
fn chipset(name: &str) -> Option<Chipset> {
    let name = name.to_ascii_lowercase();
    Chipset::of_name(&name).or_else(|| {
        let is = |what: &str| name.contains(what);
        if is("q35") { Some(Chipset::Q35) } else { is("i440fx").then_some(Chipset::I440fx) }
    })
}

fn cpus(fields: &Map<String, Value>) -> Cpus {
    let at_least_1 = |keys: &[&str]| small(fields, keys, CPUS_MAX).filter(|n| *n > 0);
    let all = at_least_1(&["cpus", "vcpus", "cpu_count"]);
    let (sockets, cores, threads) = (at_least_1(&["sockets"]), at_least_1(&["cores"]), at_least_1(&["threads"]));
    let known = Cpus { sockets: sockets.unwrap_or(1), cores: cores.unwrap_or(1), threads: threads.unwrap_or(1) };
    let is_told = sockets.is_some() || cores.is_some() || threads.is_some();
    match all {
        // What does not multiply out is told by the sum.
        Some(all) if !is_told || known.count() != all => Cpus { sockets: 1, cores: all, threads: 1 },
        None if !is_told => Cpus { sockets: 1, cores: CPUS, threads: 1 },
        _ if known.count() > CPUS_MAX => Cpus { sockets: 1, cores: CPUS_MAX, threads: 1 },
        _ => known,
    }
}

fn memory(fields: &Map<String, Value>) -> u64 {
    let mib = number(fields, &["memory_mib"]).or_else(|| Some(number(fields, &["memory", "memory_bytes"])? >> 20));
    mib.filter(|mib| (1..=MEMORY_MIB_MAX).contains(mib)).unwrap_or(MEMORY_MIB)
}

fn controller(value: &Value) -> Option<Controller> {
    let fields = value.as_object()?;
    let kind = Bus::of_name(&text(fields, &["kind", "model", "type"])?)?;
    Some(Controller { id: text(fields, &["id", "name"])?, kind })
}

fn disk(value: &Value) -> Option<Disk> {
    let fields = match value {
        Value::String(file) => return Some(Disk { file: Some(text_of(file)?), ..Disk::default() }),
        value => value.as_object()?,
    };
    let controller = text(fields, &["controller"]);
    Some(Disk {
        name: text(fields, &["name", "id"]),
        file: text(fields, &["file", "path", "image"]),
        bus: text(fields, &["bus"]).or_else(|| controller.clone()).and_then(|name| Bus::of_name(&name)),
        controller,
        unit: small(fields, &["unit", "address", "bus_address"], 1023),
        boot: small(fields, &["boot", "boot_order"], 1023).filter(|n| *n > 0),
        serial: text(fields, &["serial"]),
        size: number(fields, &["size", "virtual_size", "capacity"]),
    })
}

fn nic(value: &Value) -> Option<Nic> {
    let fields = value.as_object()?;
    Some(Nic {
        mac: text(fields, &["mac", "address"]).and_then(|mac| Mac::parse(&mac)),
        model: text(fields, &["model", "type"]).and_then(|model| NicModel::of_name(&model)),
        network: text(fields, &["network", "bridge", "switch"]),
    })
}

fn source(value: &Value) -> Option<Source> {
    match value {
        Value::String(name) => Some(Source { hypervisor: text_of(name), ..Source::default() }),
        value => {
            let fields = value.as_object()?;
            Some(Source {
                hypervisor: text(fields, &["hypervisor", "kind", "type"]),
                id: text(fields, &["id"]),
                version: text(fields, &["version"]),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Machine {
        Machine::read(value.to_string().as_bytes()).expect("an object")
    }

    #[test]
    fn what_is_written_is_read() {
        let machine = read(&json!({
            "name": "web01", "uuid": "{4F1B2C3D-0000-1111-2222-333344445555}", "firmware": "efi", "secure_boot": true,
            "machine_type": "pc-q35-9.0+pve0", "cpus": 8, "sockets": 2, "cores": 4, "memory": 8589934592_u64,
            "controllers": [{ "id": "scsi0", "kind": "pvscsi" }],
            "disks": [{ "id": "disk0", "path": "a.qcow2", "controller": "scsi0", "unit": 3, "boot": 2 }, "b.raw"],
            "nics": [{ "mac": "00:50:56:aa:bb:01", "model": "vmxnet3", "network": "VM Network" }],
            "guest_os": "debian12-64", "source": "vsphere",
        }));
        assert_eq!(machine.uuid.as_deref(), Some("4f1b2c3d-0000-1111-2222-333344445555"));
        assert_eq!(machine.firmware, Some(Firmware::SecureBoot));
        assert_eq!((machine.chipset, machine.cpus.count(), machine.memory_mib), (Some(Chipset::Q35), 8, 8192));
        assert_eq!(machine.bus_of(&machine.disks[0]), Some(Bus::Pvscsi));
        assert_eq!(machine.boot_order(), [0, 1]);
        assert_eq!(Machine::read(machine.write().as_bytes()).expect("our own"), machine);
    }

    #[test]
    fn nothing_and_nonsense_are_the_usual_machine() {
        let usual = read(&json!({}));
        assert_eq!((usual.cpus.count(), usual.memory_mib, usual.firmware), (CPUS, MEMORY_MIB, None));
        let odd = read(&json!({
            "name": ["x"], "cpus": 4_000_000_000_u64, "sockets": 1000, "cores": 1000, "threads": -1,
            "memory_mib": u64::MAX, "firmware": 7, "disks": [7, {}, null, ""], "nics": "none", "uuid": "x",
            "controllers": [{ "id": "a" }], "source": 3,
        }));
        assert_eq!((odd.cpus.count(), odd.memory_mib), (CPUS_MAX, MEMORY_MIB));
        assert_eq!((odd.name.as_str(), odd.disks.len(), odd.uuid), ("machine", 1, None));
        assert!(Machine::read(b"[]").is_err() && Machine::read(b"{").is_err());
        let many = json!({ "disks": vec!["a"; 100_000], "name": "n\n\u{1b}".repeat(1000) });
        let many = read(&many);
        assert_eq!(many.disks.len(), DISKS_MAX);
        assert!(many.name.chars().count() <= TEXT_MAX && !many.name.contains('\n'));
    }

    #[test]
    fn families() {
        let of = |os: &str| read(&json!({ "guest_os": os })).family();
        for windows in ["win11", "w2k19", "windows2019srv-64", "Windows", "winNetStandardGuest", "wxp"] {
            assert_eq!(of(windows), crate::machine::Family::Windows, "{windows}");
        }
        for unix in ["l26", "debian12-64", "darwin20", "", "linux"] {
            assert_eq!(of(unix), crate::machine::Family::Unix, "{unix}");
        }
    }
}
