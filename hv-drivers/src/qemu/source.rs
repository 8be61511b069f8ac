//! A disk's place as QEMU is told it: block nodes.
//!
//! Each disk has two nodes, both ours to take away again: the one that fetches its bytes and one of its format over it.
//! A server that is gone for a while is waited for (`reconnect-delay`); when that does not help, the guest is paused by its
//! devices' error policy, and its requests are repeated when it goes on.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    Error, Result,
    driver::{DiskSource, FileFormat},
};

/// The nodes of a disk: what `-blockdev` and `blockdev-add` take, the one that fetches first.
///
/// # Errors
///
/// When the place cannot be told to QEMU.
pub fn nodes(source: &DiskSource, name: &str, reconnect: Duration, throwaway: bool) -> Result<[Value; 2]> {
    let below = below(name);
    let mut fetch = match source {
        DiskSource::NbdUnix { socket, export } => json!({
            "driver": "nbd", "export": export, "reconnect-delay": reconnect.as_secs(),
            "server": { "type": "unix", "path": path(socket)? },
        }),
        DiskSource::NbdTcp { host, port, export } => json!({
            "driver": "nbd", "export": export, "reconnect-delay": reconnect.as_secs(),
            "server": { "type": "inet", "host": host, "port": port.to_string() },
        }),
        DiskSource::Iscsi { portal, target, lun, chap } => {
            let mut node = json!({
                "driver": "iscsi", "transport": "tcp", "portal": portal, "target": target, "lun": lun,
            });
            if let (Some((user, _)), Some(fields)) = (chap, node.as_object_mut()) {
                fields.insert("user".into(), json!(user));
                fields.insert("password-secret".into(), json!(secret(name)));
            }
            node
        }
        DiskSource::Nfs { host, path, ports } => {
            if ports.is_some() {
                return Err(Error::unsupported(
                    "QEMU's NFS client takes no ports: it asks the server's port mapper, at port 111; serve with one, or by NBD",
                ));
            }
            json!({ "driver": "nfs", "server": { "type": "inet", "host": host }, "path": path })
        }
        DiskSource::File { path: file, .. } => {
            let device = std::fs::metadata(file).is_ok_and(|m| {
                use std::os::unix::fs::FileTypeExt;
                m.file_type().is_block_device()
            });
            let driver = if device { "host_device" } else { "file" };
            json!({ "driver": driver, "filename": path(file)? })
        }
    };
    let format = match source {
        DiskSource::File { format, .. } => *format,
        _ => FileFormat::Raw,
    };
    let mut over = json!({ "driver": format.name(), "node-name": name, "file": below });
    for (node, own) in [(&mut fetch, Some(&below)), (&mut over, None)] {
        let Some(fields) = node.as_object_mut() else { continue };
        if let Some(own) = own {
            fields.insert("node-name".into(), json!(own));
        }
        fields.insert("discard".into(), json!("unmap"));
        fields.insert("cache".into(), json!({ "direct": false, "no-flush": throwaway }));
    }
    Ok([fetch, over])
}

/// The node below the one called `name`.
pub fn below(name: &str) -> String {
    format!("{name}-file")
}

/// What the password of the disk `name` is called in QEMU.
pub fn secret(name: &str) -> String {
    format!("{name}-secret")
}

/// A path for QEMU, whose options are text.
///
/// # Errors
///
/// When it is no text.
pub fn path(path: &std::path::Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Error::invalid(format!("QEMU cannot be told the path {}: it is no UTF-8", path.display())))
}
