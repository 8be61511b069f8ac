//! Small files that are whole or not there, also after the loss of power.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// Put `bytes` in the place of the file `path`.
///
/// # Errors
///
/// When it cannot be written; what was there before is there still.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync_folder_of(path)
}

/// Make durable that `path` is there, or is not.
///
/// # Errors
///
/// When its folder cannot be synced.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
