//! A disk that a command works on: a file of the tree or an image file of the host.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{
    Error, ReadAt, Result,
    file::HostFile,
    images::{self, Format, Image, gate::HostFolder},
};
use vfs::{node::Node, providers::disks::NodeFolder};

use super::{Opened, open};
use crate::cli::Cli;

/// The folders at the top of the tree.
const TOPS: [&str; 4] = ["jobs", "clients", "machines", "images"];

/// A disk to work on.
pub struct DiskSource {
    /// What the user called it.
    pub label: String,
    /// The disk and its image files.
    pub image: Arc<Image>,
    /// Stands for it: the same disk of the same backup has the same.
    pub identity: Vec<u8>,
    /// Keeps the volumes open.
    _opened: Option<Opened>,
}

/// The disk that `name` is: a path of the tree, or else a file of the host.
///
/// # Errors
///
/// When there is no such file, or no disk in it.
pub fn disk(cli: &Cli, name: &OsStr, format: Option<Format>) -> Result<DiskSource> {
    let label = name.to_string_lossy().into_owned();
    let top = label.trim_start_matches(['/', '.']).split('/').next().unwrap_or_default();
    let path = PathBuf::from(name);
    if TOPS.contains(&top) && !path.exists() {
        return of_tree(cli, name, label, format);
    }
    of_host(&path, label, format)
}

fn of_tree(cli: &Cli, name: &OsStr, label: String, format: Option<Format>) -> Result<DiskSource> {
    let opened = open(cli)?;
    let Node::File(file) = opened.resolve(name)? else {
        return Err(Error::invalid(format!("{label} is no file; `revenant ls` lists folders")));
    };
    let image = match file.image()? {
        Some(image) => image,
        None => {
            let (folder, file_name) = label.trim_end_matches('/').rsplit_once('/').unwrap_or(("", &label));
            let Node::Dir(folder) = opened.resolve(OsStr::new(folder))? else {
                return Err(Error::not_found(format!("{folder} is not in the tree")));
            };
            Arc::new(images::open(file_name, file.open()?, format, &NodeFolder(folder))?)
        }
    };
    Ok(DiskSource { identity: label.clone().into_bytes(), label, image, _opened: Some(opened) })
}

fn of_host(path: &Path, label: String, format: Option<Format>) -> Result<DiskSource> {
    let file: Arc<dyn ReadAt> = Arc::new(HostFile::open(path)?);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let image = images::open(&name, file, format, &HostFolder::open(folder)?)?;
    let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned()).into_os_string().into_encoded_bytes();
    Ok(DiskSource { label, image: Arc::new(image), identity, _opened: None })
}
