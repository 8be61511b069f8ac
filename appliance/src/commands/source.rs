//! A disk that a command works on: a file of the tree or an image file of the host.

use std::{cell::OnceCell, ffi::OsStr, ops::ControlFlow, path::Path, sync::Arc};

use blockdev::{
    Error, ReadAt, Result,
    encrypted::Secrets,
    file::HostFile,
    images::{
        self, Format, Image,
        gate::{HostFolder, Neighbours},
    },
    ovf::Package,
};
use vfs::{
    node::{File, Node},
    providers::disks::{self, NodeFolder},
};

use super::{Opened, open_sources};
use crate::{
    cli::{Cli, Sources},
    config,
};

/// The folders at the top of the tree.
const TOPS: [&str; 4] = ["jobs", "clients", "machines", "images"];

/// A disk to work on.
#[derive(Clone)]
pub struct DiskSource {
    /// What the user called it.
    pub label: String,
    /// The disk and its image files.
    pub image: Arc<Image>,
    /// Stands for it: the same disk of the same backup has the same.
    pub identity: Vec<u8>,
    /// The folder of the tree with the files of its volumes; of an image of the host as it would be with `--image`.
    pub files: Option<String>,
}

impl DiskSource {
    /// Its file's name without extension.
    pub fn stem(&self) -> String {
        let stem = Path::new(&self.label).file_stem();
        stem.map_or_else(|| self.label.clone(), |stem| stem.to_string_lossy().into_owned())
    }

    /// What it is called among `all` that are served together: its stem, unless another is called so, too.
    pub fn name(&self, all: &[Self]) -> String {
        let own = self.stem();
        if all.iter().filter(|s| s.stem() == own).count() == 1 { own } else { self.label.clone() }
    }
}

/// Finds disks by what the user calls them; the volumes are opened when the first is in the tree.
pub struct Disks<'a> {
    sources: &'a Sources,
    opened: OnceCell<Arc<Opened>>,
}

impl<'a> Disks<'a> {
    pub const fn new(cli: &'a Cli) -> Self {
        Self { sources: &cli.sources, opened: OnceCell::new() }
    }

    /// What encrypted volumes on the disks are opened with.
    ///
    /// # Errors
    ///
    /// When a file of a secret cannot be read.
    pub fn secrets(&self) -> Result<Arc<Secrets>> {
        config::secrets(self.sources)
    }

    /// Those of sources that are open.
    pub fn opened(sources: &'a Sources, opened: Arc<Opened>) -> Self {
        Self { sources, opened: OnceCell::from(opened) }
    }

    /// The disk that `name` is: a path of the tree, or else a file of the host. `format` is that of the image where its
    /// own bytes are not to tell.
    ///
    /// # Errors
    ///
    /// When there is no such file, or no disk in it.
    pub fn one(&self, name: &OsStr, format: Option<Format>) -> Result<DiskSource> {
        let mut disks = self.of_name(name, format)?;
        match (disks.pop(), disks.len()) {
            (Some(only), 0) => Ok(only),
            (_, others) => {
                let label = name.to_string_lossy();
                Err(Error::invalid(format!("{label} has {} disks, where one is wanted", others + 1)))
            }
        }
    }

    /// The disks in the file that `name` is: one, or those of a package.
    fn of_name(&self, name: &OsStr, format: Option<Format>) -> Result<Vec<DiskSource>> {
        let label = name.to_string_lossy().into_owned();
        if is_host_path(name) {
            return of_host(Path::new(name), label, format);
        }
        match self.tree()?.resolve(name)? {
            Node::File(file) => self.of_file(&label, file.as_ref(), format),
            _ => Err(Error::invalid(format!("{label} is no file; `revenant ls` lists folders"))),
        }
    }

    /// The same; a folder stands for all disks that are shown in it or in the folder `disks` in it.
    ///
    /// # Errors
    ///
    /// As [`one`](Self::one), and when a folder has no disks.
    pub fn several(&self, name: &OsStr, format: Option<Format>) -> Result<Vec<DiskSource>> {
        if is_host_path(name) {
            return self.of_name(name, format);
        }
        let label = name.to_string_lossy().trim_end_matches('/').to_owned();
        let Node::Dir(mut folder) = self.tree()?.resolve(name)? else { return self.of_name(name, format) };
        let mut prefix = label.clone();
        if let Some(Node::Dir(disks)) = folder.lookup(b"disks")? {
            folder = disks;
            prefix.push_str("/disks");
        }
        let mut names = Vec::new();
        folder.list(0, &mut |entry| {
            names.extend(String::from_utf8(entry.name).ok().filter(|n| n.ends_with(".raw")));
            ControlFlow::Continue(())
        })?;
        let mut disks = Vec::new();
        for name in names {
            if let Some(Node::File(file)) = folder.lookup(name.as_bytes())? {
                disks.extend(self.of_file(&format!("{prefix}/{name}"), file.as_ref(), format)?);
            }
        }
        if disks.is_empty() {
            return Err(Error::not_found(format!("there are no disks in {label}; `revenant points` lists machines")));
        }
        Ok(disks)
    }

    /// The tree.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn tree(&self) -> Result<&Opened> {
        if self.opened.get().is_none() {
            let opened = open_sources(self.sources)?;
            let _only_here = self.opened.set(Arc::new(opened));
        }
        self.opened.get().map(Arc::as_ref).ok_or_else(|| Error::invalid("the tree is not open"))
    }

    fn of_file(&self, label: &str, file: &dyn File, format: Option<Format>) -> Result<Vec<DiskSource>> {
        let identity = label.as_bytes().to_vec();
        if let Some(image) = file.image()? {
            let files = files_of_face(label);
            return Ok(vec![DiskSource { identity, label: label.to_owned(), image, files }]);
        }
        let (folder, name) = label.trim_end_matches('/').rsplit_once('/').unwrap_or(("", label));
        let Node::Dir(folder) = self.tree()?.resolve(OsStr::new(folder))? else {
            return Err(Error::not_found(format!("{folder} is not in the tree")));
        };
        opened(
            name,
            disks::content(file)?,
            format,
            || Ok(NodeFolder(Arc::clone(&folder))),
            Place { label: label.to_owned(), identity, files: None },
        )
    }
}

/// Whether `name` is a file of the host rather than a path of the tree.
pub fn is_host_path(name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    let top = text.trim_start_matches(['/', '.']).split('/').next().unwrap_or_default();
    !TOPS.contains(&top) || Path::new(name).exists()
}

fn of_host(path: &Path, label: String, format: Option<Format>) -> Result<Vec<DiskSource>> {
    let file: Arc<dyn ReadAt> = Arc::new(HostFile::open(path)?);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned()).into_os_string().into_encoded_bytes();
    let files = Some(format!("images/{name}/files"));
    opened(&name, file, format, || HostFolder::open(folder), Place { label, identity, files })
}

/// What a file is called, and where its volumes are shown.
struct Place {
    label: String,
    identity: Vec<u8>,
    files: Option<String>,
}

/// Where the files of a disk are whose face is `label`: `machines/NAME/@TIME/disks/disk0.raw`.
fn files_of_face(label: &str) -> Option<String> {
    let label = label.trim_matches('/');
    let (point, face) = label.rsplit_once("/disks/")?;
    let (disk, _) = face.rsplit_once('.')?;
    match point.split('/').next()? {
        "images" => Some(format!("{point}/files")),
        "machines" => Some(format!("{point}/files/{disk}")),
        _ => None,
    }
}

/// The disks in `file`: an image, or those of a package.
fn opened<N: Neighbours + 'static>(
    name: &str,
    file: Arc<dyn ReadAt>,
    format: Option<Format>,
    neighbours: impl Fn() -> Result<N>,
    place: Place,
) -> Result<Vec<DiskSource>> {
    let Place { label, identity, files } = place;
    if format.is_none()
        && let Some(package) = Package::open(&file, neighbours()?)?
    {
        let disk = |number: usize| {
            let label = format!("{label}/disk{number}");
            // The volumes of a package's only disk are not in a folder of that disk.
            let alone = package.disks().len() == 1;
            let files = files.as_ref().map(|f| if alone { f.clone() } else { format!("{f}/disk{number}") });
            let identity = [&identity[..], format!("\0{number}").as_bytes()].concat();
            Ok(DiskSource { label, image: Arc::new(package.open_disk(number)?), identity, files })
        };
        return (0..package.disks().len()).map(disk).collect();
    }
    let image = Arc::new(images::open(name, file, format, &neighbours()?)?);
    Ok(vec![DiskSource { label, image, identity, files }])
}
