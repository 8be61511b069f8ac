//! Disks that are served: found by what the user calls them, named, and made writable over overlays.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{
    BlockDevice, Error, Result,
    overlay::{self, Overlay},
};

use super::super::source::{DiskSource, Disks};

/// All disks that `paths` stand for. Several of them need a folder for their overlays.
pub fn all(
    disks: &Disks<'_>,
    paths: &[OsString],
    format: Option<&str>,
    overlay: Option<&Path>,
) -> Result<Vec<DiskSource>> {
    let format = format.map(str::parse).transpose()?;
    let mut sources = Vec::new();
    for path in paths {
        sources.extend(disks.several(path, format)?);
    }
    if sources.len() > 1 && overlay.is_some_and(|path| !path.is_dir()) {
        return Err(Error::invalid(
            "there are several disks: --overlay has to name a folder, in which each gets a file",
        ));
    }
    Ok(sources)
}

/// The overlay of the disk `name`: `path` itself, or the file of that name in the folder `path`.
pub fn overlay_path(path: &Path, name: &str) -> PathBuf {
    if path.is_dir() { path.join(format!("{}.qcow2", name.replace('/', "_"))) } else { path.to_owned() }
}

/// The overlay `path` over a disk; made if it is not there.
pub fn overlay(path: &Path, source: &DiskSource, disk: Arc<dyn BlockDevice>, quota: Option<u64>) -> Result<Overlay> {
    let mut settings = overlay::Options::new(String::from_utf8_lossy(&source.identity));
    settings.quota = quota;
    if path.exists() { Overlay::open(path, disk, &settings) } else { Overlay::create(path, disk, &settings) }
}
