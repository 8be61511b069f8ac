//! A datastore of a machine's disks, for the doors that can write files.

use std::{ffi::OsStr, sync::Arc};

use blockdev::{BlockDevice, Error, Result, containers::Kind, images::Disk};
use vfs::providers::datastore::{Datastore, Device, DiskSource, Settings};

use super::super::source::Disks;
use crate::{
    cli::{Cli, DatastoreOptions},
    output::{self, size},
};

/// The datastore that `options` ask for, of the disks at `path`; `None`: they ask for none. VMDK files are of the kind
/// `vmdk` where nothing else is said.
pub fn open(
    cli: &Cli,
    path: Option<&OsStr>,
    options: &DatastoreOptions,
    default: Kind,
    vmdk: Kind,
) -> Result<Option<Datastore>> {
    let Some(folder) = &options.overlay else { return Ok(None) };
    let path =
        path.ok_or_else(|| Error::invalid("say whose disks: --overlay needs a path such as machines/NAME/@TIME"))?;
    let kind = match options.format.as_deref() {
        None => default,
        Some("vmdk") => vmdk,
        Some(name) => name.parse()?,
    };
    let mut settings = Settings::new(kind);
    settings.overlay_quota = options.overlay_quota;
    settings.files_quota = options.files_quota;
    let found = Disks::new(cli).several(path, None)?;
    let sources: Vec<_> = found
        .iter()
        .map(|source| DiskSource {
            // A name that is a path is no name of a file.
            name: source.name(&found).replace('/', "_"),
            identity: source.identity.clone(),
            device: Device::Backup(Arc::<Disk>::clone(&source.image.disk) as Arc<dyn BlockDevice>),
        })
        .collect();
    Datastore::open(folder, &sources, &settings).map(Some)
}

/// Make durable what clients wrote, and say how much that was.
pub fn close(datastore: &Datastore) -> Result<()> {
    datastore.sync()?;
    for disk in datastore.disks() {
        let (name, overlay) = (&disk.name, disk.overlay.unwrap_or(0));
        let removed = if disk.visible { "" } else { "; a client removed its file" };
        output::note(&format!(
            "{name}: {} read, {} written, the overlay takes {}{removed}",
            size(disk.read),
            size(disk.written),
            size(overlay)
        ));
    }
    Ok(())
}
