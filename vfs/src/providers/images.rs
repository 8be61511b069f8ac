//! `images/<file name>/disks/disk0.*`: disk images that lie outside any backup.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{
    Error, ReadAt, Result,
    file::HostFile,
    images::{self, gate::HostFolder},
};

use super::{
    disks::{LazyImage, Subject, faces},
    folder::{Child, Folder},
    ino,
};
use crate::node::Time;

/// The folder `images` with the images at `paths`.
///
/// # Errors
///
/// When one of them is not there.
pub fn folder(paths: &[PathBuf]) -> Result<Folder> {
    let mut taken = BTreeSet::new();
    let mut children = Vec::new();
    let mut newest = Time::default();
    for path in paths {
        let time = modified(path)?;
        newest = newest.max(time);
        let file_name = path.file_name().map_or_else(|| "image".into(), |n| n.to_string_lossy().into_owned());
        // Images of one name in different folders.
        let mut name = file_name.clone();
        for n in 2.. {
            if taken.insert(name.clone()) {
                break;
            }
            name = format!("{file_name}-{n}");
        }
        let identity = [b"image\0", path.as_os_str().as_encoded_bytes()].concat();
        let subject = Subject { image: image(path.clone(), file_name), identity: identity.clone(), time };
        let disks = Folder::lazy(ino(&[&identity, b"disks"]), time, move || Ok(faces("disk0", &subject)));
        children.push(Child::folder(name, Folder::of(ino(&[&identity]), time, vec![Child::folder("disks", disks)])));
    }
    Ok(Folder::of(ino(&[b"images"]), newest, children))
}

/// The image at `path` of the host; its other files are looked for in its folder and nowhere else.
fn image(path: PathBuf, name: String) -> Arc<LazyImage> {
    LazyImage::new(move || {
        let file: Arc<dyn ReadAt> = Arc::new(HostFile::open(&path)?);
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        images::open(&name, file, None, &HostFolder::open(parent)?)
    })
}

fn modified(path: &Path) -> Result<Time> {
    use std::os::unix::fs::MetadataExt;
    let metadata = path.metadata().map_err(|e| Error::io(format!("cannot open the image {}", path.display()), e))?;
    Ok(Time { seconds: metadata.mtime(), nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0) })
}
