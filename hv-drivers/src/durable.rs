//! Small files that are whole or not there, also after the loss of power.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use crate::{Error, Result};

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

/// What is in the file `path`; `None` when there is none.
///
/// # Errors
///
/// When it cannot be read, or has more than `max` bytes.
pub fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    let failed = |e| Error::io(format!("cannot read {}", path.display()), e);
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(Error::damaged(format!("{} is too long", path.display())));
    }
    Ok(Some(bytes))
}

/// Remove a file for good; one that is not there is no matter.
///
/// # Errors
///
/// When it cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed.and_then(|()| sync_folder_of(path)),
    };
    removed.map_err(|e| Error::io(format!("cannot remove {}", path.display()), e))
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
