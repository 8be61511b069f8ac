//! `images/<file name>/{disks/disk0.*,files/...}`: disk images that lie outside any backup.

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
    files::{Guest, NamedDisk},
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
    let mut subjects = Vec::new();
    for path in paths {
        let time = modified(path)?;
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
        subjects.push((name, Subject { image: image(path.clone(), file_name), identity, time }));
    }
    // Volumes may lie on several of them.
    let all = Arc::new(subjects.iter().map(|(name, s)| (name.clone(), Arc::clone(&s.image))).collect());
    let newest = subjects.iter().map(|(_, s)| s.time).max().unwrap_or_default();
    let children = subjects.into_iter().map(|(name, subject)| one(name, subject, &all)).collect();
    Ok(Folder::of(ino(&[b"images"]), newest, children))
}

/// The folder of one image.
fn one(name: String, subject: Subject, all: &Arc<Vec<NamedDisk>>) -> Child {
    let Subject { image, identity, time } = &subject;
    let own = vec![(name.clone(), Arc::clone(image))];
    let guest = Guest::new(own, Arc::clone(all), identity.clone(), *time);
    let (number, disks_number, time) = (ino(&[identity]), ino(&[identity, b"disks"]), *time);
    let disks = Folder::lazy(disks_number, time, move || Ok(faces("disk0", &subject)));
    Child::folder(name, Folder::of(number, time, vec![Child::folder("disks", disks), guest.of_only_disk()]))
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
