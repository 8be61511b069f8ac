//! Disks, nodes and dirty bitmaps, as QEMU lists them.

use serde_json::{Value, json};

use crate::{Result, qmp::Client};

/// A disk of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its device, or what stands for its name.
    pub name: String,
    /// The node that it has.
    pub node: String,
    /// Its size in bytes.
    pub size: u64,
    /// The path of its image.
    pub place: String,
    /// Whether its image is a qcow2 that can store bitmaps.
    pub keeps_bitmaps: bool,
    /// Its device's path among QEMU's objects.
    pub device: String,
}

/// The disks, and what else has a medium but is none: its name and why.
pub struct Disks {
    pub disks: Vec<Disk>,
    pub left_out: Vec<(String, String)>,
}

/// A dirty bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    pub name: String,
    pub is_recording: bool,
    /// It was not stored when QEMU ended, and knows nothing any more.
    pub is_inconsistent: bool,
    pub is_busy: bool,
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn is(value: &Value, path: &str) -> bool {
    value.pointer(path).and_then(Value::as_bool) == Some(true)
}

/// A name for a file's: what is not a letter, digit, `-`, `_` or `.` becomes `_`.
fn fit(name: &str) -> String {
    let name: String =
        name.chars().take(64).map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    if name.starts_with('.') { name.replacen('.', "_", 1) } else { name }
}

/// What a device is called: `/machine/peripheral/vd0/virtio-backend` is `vd0`.
fn device_name(path: &str) -> Option<&str> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match (parts.next(), parts.next(), parts.next()) {
        (Some("machine"), Some("peripheral"), Some(name)) => Some(name),
        (Some("machine"), ..) | (None, ..) => None,
        (Some(name), ..) => Some(name),
    }
}

/// The disks of the machine behind `monitor`, in QEMU's order.
///
/// # Errors
///
/// When it does not answer.
pub fn disks(monitor: &mut Client) -> Result<Disks> {
    let all = monitor.execute("query-block", &json!({}))?;
    let mut found = Disks { disks: Vec::new(), left_out: Vec::new() };
    for (number, entry) in all.as_array().into_iter().flatten().enumerate() {
        let Some(inserted) = entry.get("inserted") else { continue };
        let node = text(inserted, "/node-name");
        let device = text(entry, "/qdev");
        let name = [device_name(device), Some(text(entry, "/device")).filter(|n| !n.is_empty()), Some(node)];
        let name = fit(name.into_iter().flatten().find(|n| !n.is_empty()).unwrap_or_default());
        let name = if name.is_empty() { format!("disk{number}") } else { name };
        let firmware = device.is_empty() || name.starts_with("pflash") || device.contains("flash");
        let size = inserted.pointer("/image/virtual-size").and_then(Value::as_u64);
        if firmware {
            // Its own configuration names it; it is no disk of the guest's.
            continue;
        }
        match size {
            _ if is(entry, "/removable") => {
                found.left_out.push((name, "a removable medium".to_owned()));
            }
            Some(size) if !is(inserted, "/ro") && size > 0 => found.disks.push(Disk {
                // Two devices of one name would be two files of one name.
                name: match found.disks.iter().any(|d| d.name == name) {
                    true => format!("{name}-{number}"),
                    false => name,
                },
                node: node.to_owned(),
                size,
                place: text(inserted, "/image/filename").to_owned(),
                keeps_bitmaps: text(inserted, "/drv") == "qcow2",
                device: device.to_owned(),
            }),
            Some(_) => found.left_out.push((name, "it is read-only".to_owned())),
            None => found.left_out.push((name, "QEMU does not tell its size".to_owned())),
        }
    }
    Ok(found)
}

/// The bitmaps of a node.
///
/// # Errors
///
/// When QEMU does not answer.
pub fn bitmaps(monitor: &mut Client, node: &str) -> Result<Vec<Bitmap>> {
    let all = monitor.execute("query-named-block-nodes", &json!({ "flat": true }))?;
    let found = all.as_array().into_iter().flatten().find(|n| text(n, "/node-name") == node);
    let bitmaps = found.and_then(|n| n.get("dirty-bitmaps")).and_then(Value::as_array);
    let bitmap = |b: &Value| Bitmap {
        name: text(b, "/name").to_owned(),
        is_recording: is(b, "/recording"),
        is_inconsistent: is(b, "/inconsistent"),
        is_busy: is(b, "/busy"),
    };
    Ok(bitmaps.into_iter().flatten().map(bitmap).collect())
}
