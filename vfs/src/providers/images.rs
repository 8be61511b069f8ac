//! `images/<file name>/{disks/disk0.*,files/...}`: disk images that lie outside any backup.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{
    Error, ReadAt, Result,
    encrypted::Secrets,
    file::HostFile,
    images::{self, gate::HostFolder},
    ovf::Package,
};

use super::{
    disks::{LazyImage, Subject, faces},
    files::{self, Guest, NamedDisk},
    folder::{Child, Folder},
    ino,
};
use crate::node::Time;

/// The folder `images` with the images at `paths`, whose encrypted volumes `secrets` may open.
///
/// # Errors
///
/// When one of them is not there.
pub fn folder(paths: &[PathBuf], secrets: &Arc<Secrets>) -> Result<Folder> {
    let mut taken = BTreeSet::new();
    let mut found = Vec::new();
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
        let disk = |image, identity| Subject { image, identity, time };
        let disks: Vec<Subject> = match package(path) {
            Some(package) => (0..package.disks().len())
                .map(|number| {
                    let (own, package) = ([&identity[..], &number.to_le_bytes()].concat(), Arc::clone(&package));
                    disk(LazyImage::new(move || package.open_disk(number)), own)
                })
                .collect(),
            None => vec![disk(image(path.clone(), file_name), identity.clone())],
        };
        found.push(Source { name, identity, time, disks });
    }
    // Volumes may lie on several of them.
    let single =
        |s: &Source| Some((s.name.clone(), Arc::clone(&s.disks.first().filter(|_| s.disks.len() == 1)?.image)));
    let all = Arc::new(found.iter().filter_map(single).collect());
    let newest = found.iter().map(|s| s.time).max().unwrap_or_default();
    let children = found.into_iter().map(|source| source.shown(&all, secrets)).collect();
    Ok(Folder::of(ino(&[b"images"]), newest, children))
}

/// A file outside any backup: an image, or a package of several.
struct Source {
    name: String,
    identity: Vec<u8>,
    time: Time,
    disks: Vec<Subject>,
}

impl Source {
    fn shown(self, all: &Arc<Vec<NamedDisk>>, secrets: &Arc<Secrets>) -> Child {
        let Self { name, identity, time, disks } = self;
        let named = |(number, disk): (usize, &Subject)| (format!("disk{number}"), Arc::clone(&disk.image));
        let files = match disks.as_slice() {
            // An image's only disk has the image's name where volumes lie on several images.
            [only] => {
                let own = vec![(name.clone(), Arc::clone(&only.image))];
                files::folder(Guest::new(own, Arc::clone(all), identity.clone(), time, secrets), false)
            }
            several => {
                let own = several.iter().enumerate().map(named).collect();
                files::folder(Guest::new(own, Arc::default(), identity.clone(), time, secrets), true)
            }
        };
        let shown =
            move || Ok((0..).zip(&disks).flat_map(|(n, disk): (u32, _)| faces(&format!("disk{n}"), disk)).collect());
        let disks = Child::folder("disks", Folder::lazy(ino(&[&identity, b"disks"]), time, shown));
        Child::folder(name, Folder::of(ino(&[&identity]), time, vec![disks, files]))
    }
}

/// The package at `path`. One that is damaged is shown as an image that cannot be opened, which tells why.
fn package(path: &Path) -> Option<Arc<Package>> {
    let file: Arc<dyn ReadAt> = Arc::new(HostFile::open(path).ok()?);
    Package::open(&file, HostFolder::open(folder_of(path)).ok()?).ok()?.map(Arc::new)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The image at `path` of the host; its other files are looked for in its folder and nowhere else.
fn image(path: PathBuf, name: String) -> Arc<LazyImage> {
    LazyImage::new(move || {
        let file: Arc<dyn ReadAt> = Arc::new(HostFile::open(&path)?);
        images::open(&name, file, None, &HostFolder::open(folder_of(&path))?)
    })
}

fn modified(path: &Path) -> Result<Time> {
    use std::os::unix::fs::MetadataExt;
    let metadata = path.metadata().map_err(|e| Error::io(format!("cannot open the image {}", path.display()), e))?;
    Ok(Time { seconds: metadata.mtime(), nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0) })
}
