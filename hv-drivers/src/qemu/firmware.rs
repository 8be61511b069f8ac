//! UEFI for machines: where this host has it.
//!
//! Distributions put it in different places and say so in descriptors (QEMU's `docs/interop/firmware.json`): JSON files
//! in three folders, of which a more local one hides those of its name. The first by name that fits is taken, as the
//! specification says. Each machine gets a copy of the template for the variables, which is its own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    Error, ErrorKind, Result,
    machine::{Chipset, Firmware},
};

/// The machine's own variables, in its folder.
pub const VARIABLES: &str = "vars.fd";

/// Where descriptors are, the most local ones last.
const FOLDERS: [&str; 2] = ["/usr/share/qemu/firmware", "/etc/qemu/firmware"];
/// The longest descriptor that is read, in bytes.
const DESCRIPTOR_MAX: u64 = 1 << 20;
/// The largest template of variables that is copied, in bytes.
const TEMPLATE_MAX: u64 = 64 << 20;

/// Firmware in flash memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flash {
    /// Its code.
    pub code: PathBuf,
    /// The format of that file.
    pub code_format: String,
    /// The template for its variables, and the format of that file.
    pub variables: Option<(PathBuf, String)>,
    /// It needs system management mode, and its flash is written in that alone.
    pub needs_smm: bool,
}

/// The flash memory for `firmware` on `chipset`; `None` for a BIOS, which QEMU has itself.
///
/// # Errors
///
/// `Missing` when this host has no such firmware.
pub fn find(firmware: Firmware, chipset: Chipset) -> Result<Option<Flash>> {
    find_in(&FOLDERS.map(Path::new), firmware, chipset)
}

fn find_in(folders: &[&Path], firmware: Firmware, chipset: Chipset) -> Result<Option<Flash>> {
    if !firmware.is_uefi() {
        return Ok(None);
    }
    let mut descriptors: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for folder in folders {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(1000);
        descriptors.extend(entries.map(|entry| (entry.file_name(), entry.path())));
    }
    let found = descriptors.values().filter_map(|path| read(path)).find_map(|value| flash(&value, firmware, chipset));
    found.map(Some).ok_or_else(|| {
        let what = if firmware == Firmware::SecureBoot { "UEFI firmware with secure boot" } else { "UEFI firmware" };
        Error::new(
            ErrorKind::Missing,
            format!("this host has no {what} for {chipset} (no descriptor of it in {}): install ovmf", FOLDERS[0]),
        )
    })
}

fn read(path: &Path) -> Option<Value> {
    let is_short = fs::metadata(path).ok()?.len() <= DESCRIPTOR_MAX;
    serde_json::from_slice(&fs::read(path).ok().filter(|_| is_short)?).ok()
}

/// The flash memory of a descriptor, if it is what is wanted.
fn flash(descriptor: &Value, firmware: Firmware, chipset: Chipset) -> Option<Flash> {
    let texts = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let is_uefi = texts(descriptor.get("interface-types")).iter().any(|kind| kind == "uefi");
    let board = match chipset {
        Chipset::Q35 => "pc-q35-",
        Chipset::I440fx => "pc-i440fx-",
    };
    let targets = descriptor.get("targets").and_then(Value::as_array)?;
    let fits = targets.iter().any(|target| {
        let is_here = target.get("architecture").and_then(Value::as_str) == Some("x86_64");
        is_here && texts(target.get("machines")).iter().any(|machine| machine.starts_with(board))
    });
    let features = texts(descriptor.get("features"));
    let has = |feature: &str| features.iter().any(|f| f == feature);
    let is_secure = has("secure-boot") && has("enrolled-keys");
    let is_plain = !has("secure-boot") && !has("requires-smm");
    let is_wanted = if firmware == Firmware::SecureBoot { is_secure } else { is_plain };
    let mapping = descriptor.get("mapping")?;
    let is_flash = mapping.get("device").and_then(Value::as_str) == Some("flash");
    let file = |key: &str| {
        let file = mapping.get(key)?;
        let path = PathBuf::from(file.get("filename")?.as_str()?);
        let format = file.get("format").and_then(Value::as_str).filter(|f| matches!(*f, "raw" | "qcow2"))?;
        path.is_file().then(|| (path, format.to_owned()))
    };
    if !(is_uefi && fits && is_wanted && is_flash) {
        return None;
    }
    let (code, code_format) = file("executable")?;
    Some(Flash { code, code_format, variables: file("nvram-template"), needs_smm: has("requires-smm") })
}

impl Flash {
    /// The machine's variables in `folder`: its own if it has been started there before, else a copy of the template.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn prepare(&self, folder: &Path) -> Result<()> {
        let Some((template, _)) = &self.variables else { return Ok(()) };
        let own = folder.join(VARIABLES);
        if own.exists() {
            return Ok(());
        }
        let failed = |e| Error::io(format!("cannot make the firmware's variables {}", own.display()), e);
        if fs::metadata(template).map_err(failed)?.len() > TEMPLATE_MAX {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("{} is larger than variables can be", template.display()),
            ));
        }
        let fresh = folder.join("vars.fd.new");
        let bytes = fs::read(template).map_err(failed)?;
        fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, &own)).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_that_fits() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for file in ["code.fd", "secure.fd", "vars.fd"] {
            fs::write(at(file), file).expect("a file");
        }
        let descriptor = |code: &str, features: &[&str]| {
            json!({
                "interface-types": ["uefi"], "features": features,
                "targets": [{ "architecture": "x86_64", "machines": ["pc-q35-*"] }],
                "mapping": {
                    "device": "flash", "executable": { "filename": at(code), "format": "raw" },
                    "nvram-template": { "filename": at("vars.fd"), "format": "raw" },
                },
            })
        };
        let (system, local) = (at("system"), at("local"));
        for folder in [&system, &local] {
            fs::create_dir(folder).expect("a folder");
        }
        let write = |path: PathBuf, value: Value| fs::write(path, value.to_string()).expect("a file");
        write(
            system.join("40-secure.json"),
            descriptor("secure.fd", &["secure-boot", "enrolled-keys", "requires-smm"]),
        );
        write(system.join("50-gone.json"), descriptor("gone.fd", &[]));
        write(system.join("60-plain.json"), descriptor("code.fd", &[]));
        fs::write(system.join("10-broken.json"), "{").expect("a file");
        let folders = [system.as_path(), local.as_path()];
        let find = |firmware| find_in(&folders, firmware, Chipset::Q35);
        assert_eq!(find(Firmware::Bios).expect("none needed"), None);
        let plain = find(Firmware::Uefi).expect("found").expect("flash");
        assert_eq!((plain.code.clone(), plain.needs_smm), (at("code.fd"), false));
        let secure = find(Firmware::SecureBoot).expect("found").expect("flash");
        assert_eq!((secure.code, secure.needs_smm), (at("secure.fd"), true));
        assert_eq!(find_in(&folders, Firmware::Uefi, Chipset::I440fx).expect_err("none").kind(), ErrorKind::Missing);
        // A local descriptor hides the system's of its name.
        fs::write(local.join("60-plain.json"), "{}").expect("a file");
        assert!(find(Firmware::Uefi).is_err());

        let machine = at("machine");
        fs::create_dir(&machine).expect("a folder");
        plain.prepare(&machine).expect("variables");
        fs::write(machine.join(VARIABLES), "changed by the guest").expect("a file");
        plain.prepare(&machine).expect("variables");
        assert_eq!(fs::read(machine.join(VARIABLES)).expect("a file"), b"changed by the guest");
    }
}
