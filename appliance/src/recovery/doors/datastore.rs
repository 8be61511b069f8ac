//! The disks of a session as files in a folder that hypervisors can write to, for doors that serve files.
//!
//! The folder, with what a hypervisor makes beside the disks, is in the session's folder; it goes with it. The disks' bytes
//! are those of the session's overlays, so only formats are possible that have them in one piece.

use std::{path::Path, sync::Arc};

use blockdev::{Error, Result, containers::Kind};
use vfs::providers::datastore::{Datastore, Device, DiskSource, Settings};

use super::{super::live::LiveDisk, Record};
use crate::recovery::record::{DiskFormat, Door};

/// Opens the datastore of a session.
///
/// # Errors
///
/// When the door serves no files, or the folder cannot be made.
pub fn open(record: &Record, folder: &Path, disks: &[LiveDisk]) -> Result<Datastore> {
    let source = |disk: &LiveDisk| DiskSource {
        name: disk.name.clone(),
        identity: disk.identity.clone().into_bytes(),
        device: Device::Writable(Arc::clone(&disk.disk)),
    };
    let sources: Vec<_> = disks.iter().map(source).collect();
    Datastore::open(&folder.join("datastore"), &sources, &Settings::new(kind(record.door, record.format)?))
}

/// What disks look like through `door`.
///
/// # Errors
///
/// When it serves no files, and a format was asked for.
pub fn kind(door: Door, format: Option<DiskFormat>) -> Result<Kind> {
    Ok(match (door, format) {
        (Door::Nbd | Door::Iscsi, None) => Kind::Raw,
        (Door::Nbd | Door::Iscsi, Some(_)) => {
            return Err(Error::invalid("--format is for disks as files: by --through nfs or smb"));
        }
        (_, Some(DiskFormat::Raw)) => Kind::Raw,
        (Door::Nfs, None | Some(DiskFormat::Vmdk)) => Kind::VmdkVmfs,
        (Door::Smb, Some(DiskFormat::Vmdk)) => Kind::VmdkFlat,
        (Door::Smb, None) | (_, Some(DiskFormat::Vhdx)) => Kind::VhdxFixed,
    })
}

/// The name of the file with the bytes of the disk `name`.
pub fn file(record: &Record, name: &str) -> String {
    let parts = kind(record.door, record.format).map(|kind| kind.parts(name)).unwrap_or_default();
    parts.into_iter().next_back().map_or_else(|| name.to_owned(), |part| part.name)
}
