//! Finding and opening volumes.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{Error, ErrorKind, Result};

use crate::{crypto::volume::VolumeKey, medium::Medium, session::map::VolumeIndex, volume::Volume};

/// Folders in folders that are looked into.
const MAX_DEPTH: usize = 4;

/// Open the volumes among `paths`, in the order in which they were first written. A file that was named and is no
/// volume is an error; one that lies in a folder that was named is passed over, and said.
///
/// # Errors
///
/// When a named path cannot be opened.
pub fn open(paths: &[PathBuf], keys: Option<&Path>) -> Result<(Vec<Arc<Volume>>, Vec<String>)> {
    let mut problems = Vec::new();
    let mut found: Vec<Volume> = Vec::new();
    for path in paths {
        if path.is_dir() && !Medium::is_parts_folder(path) {
            let mut candidates = Vec::new();
            collect(path, 0, &mut candidates)?;
            candidates.sort();
            for candidate in candidates {
                match open_one(&candidate, keys) {
                    Ok(volume) => found.push(volume),
                    Err(e) if e.kind() == ErrorKind::Unsupported && !looks_like_volume(&candidate) => {}
                    Err(e) => problems.push(format!("passed over: {e}")),
                }
            }
        } else {
            found.push(open_one(path, keys)?);
        }
    }
    for volume in found.iter().filter(|v| v.has_damaged_label()) {
        problems.push(format!(
            "{}: the volume label is damaged; the volume is taken for {}",
            volume.medium().path().display(),
            volume.name()
        ));
    }
    let mut names: HashMap<String, PathBuf> = HashMap::new();
    found.retain(|v| match names.get(v.name()) {
        Some(first) if first != v.medium().path() => {
            let (again, first) = (v.medium().path().display(), first.display());
            problems.push(format!("passed over: {again} is volume {} again, as {first}", v.name()));
            false
        }
        Some(_) => false,
        None => names.insert(v.name().to_owned(), v.medium().path().to_owned()).is_none(),
    });
    found.sort_by(|a, b| (a.label().written_at, a.name()).cmp(&(b.label().written_at, b.name())));
    Ok((found.into_iter().map(Arc::new).collect(), problems))
}

fn collect(folder: &Path, depth: usize, out: &mut Vec<PathBuf>) -> Result<()> {
    let fail = |e| Error::io(format!("cannot list {}", folder.display()), e);
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_file() || (metadata.is_dir() && Medium::is_parts_folder(&path)) {
            out.push(path);
        } else if metadata.is_dir() && depth < MAX_DEPTH {
            collect(&path, depth + 1, out)?;
        }
    }
    Ok(())
}

/// Whether a file has a block magic at its start though it could not be opened as a volume.
fn looks_like_volume(path: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 16];
    fs::File::open(path).and_then(|mut f| f.read_exact(&mut head)).is_ok_and(|()| head[12..14] == *b"BB")
}

fn open_one(path: &Path, keys: Option<&Path>) -> Result<Volume> {
    let volume = Volume::open(path)?;
    let Some(folder) = keys.filter(|_| volume.is_encrypted()) else { return Ok(volume) };
    // The name comes from the volume: it may not lead out of the folder of keys.
    let name = volume.name().to_owned();
    if name.contains('/') || name.starts_with('.') {
        return Ok(volume);
    }
    let file = folder.join(&name);
    match fs::read(&file) {
        Ok(text) => {
            let key = VolumeKey::parse(&text).map_err(|e| e.context(file.display()))?;
            Ok(volume.with_key(Some(key)))
        }
        // Said when the volume is read; others may be readable.
        Err(_) => Ok(volume),
    }
}

/// Positions by volume name.
pub fn by_name(volumes: &[Arc<Volume>]) -> HashMap<String, VolumeIndex> {
    volumes.iter().zip(0..).map(|(v, i)| (v.name().to_owned(), VolumeIndex(i))).collect()
}
