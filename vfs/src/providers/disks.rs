//! A disk in the tree: one disk image, opened when it is first wanted, under as many file names as there are formats.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use blockdev::{
    BlockDevice, ReadAt, Result,
    containers::{self, Kind},
    images::{self, Disk, Image, gate::Neighbours},
    origin::Identified,
};

use super::{folder::Child, ino};
use crate::node::{self, Attributes, Dir, File, Inode, Node, StoredDigest, Time, Xattr};

/// Opens an image.
type Open = Box<dyn Fn() -> Result<Image> + Send + Sync>;

/// A disk image that is opened when it is first wanted, and then kept.
pub struct LazyImage {
    open: Open,
    /// Whoever comes first opens it; the others wait. A failure is not kept.
    opened: Mutex<Option<Arc<Image>>>,
}

impl LazyImage {
    /// What `open` opens.
    pub fn new(open: impl Fn() -> Result<Image> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { open: Box::new(open), opened: Mutex::new(None) })
    }

    /// The image.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn get(&self) -> Result<Arc<Image>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = &*opened {
            return Ok(Arc::clone(image));
        }
        let image = Arc::new((self.open)()?);
        *opened = Some(Arc::clone(&image));
        Ok(image)
    }
}

/// The image `name` in `folder`; its other files are looked for there and nowhere else.
pub fn image_in(folder: Arc<dyn Dir>, name: Vec<u8>) -> Arc<LazyImage> {
    let folder = NodeFolder(folder);
    LazyImage::new(move || {
        let shown = String::from_utf8_lossy(&name);
        let file = folder.open(&name)?.ok_or_else(|| blockdev::Error::not_found(format!("{shown} is gone")))?;
        images::open(&shown, file, None, &folder)
    })
}

/// The content of `file`, which tells its origin where that is known.
///
/// # Errors
///
/// When it cannot be opened.
pub fn content(file: &dyn File) -> Result<Arc<dyn ReadAt>> {
    let content = file.open()?;
    Ok(match file.identity() {
        Some(number) => Arc::new(Identified::new(content, number)),
        None => content,
    })
}

/// The files of a folder of the tree, for images that need others.
pub struct NodeFolder(pub Arc<dyn Dir>);

impl NodeFolder {
    fn open(&self, name: &[u8]) -> Result<Option<Arc<dyn ReadAt>>> {
        match self.0.lookup(name)? {
            Some(Node::File(file)) => content(file.as_ref()).map(Some),
            _ => Ok(None),
        }
    }
}

impl Neighbours for NodeFolder {
    fn find(&self, name: &str) -> Result<Option<Arc<dyn ReadAt>>> {
        self.open(name.as_bytes())
    }
}

/// What all faces of one disk share.
#[derive(Clone)]
pub struct Subject {
    /// The disk.
    pub image: Arc<LazyImage>,
    /// Stands for this disk in this backup, and for no other.
    pub identity: Vec<u8>,
    /// The time of its files.
    pub time: Time,
}

/// The kinds of files that a disk is shown as.
const KINDS: [Kind; 6] = [Kind::Raw, Kind::Qcow2, Kind::VmdkSparse, Kind::VhdxDynamic, Kind::VhdDynamic, Kind::Vdi];

/// The files `<name>.raw`, `<name>.qcow2` and so on that a disk is shown as.
pub fn faces(name: &str, disk: &Subject) -> Vec<Child> {
    let face = |kind: Kind| {
        let name = format!("{name}.{}", kind.extension());
        let ino = ino(&[b"disk", &disk.identity, kind.name().as_bytes()]);
        let face = Face { disk: disk.clone(), kind, name: name.clone(), ino, opened: OnceLock::new() };
        Child::new(name, node::Kind::File, ino, Node::File(Arc::new(face)))
    };
    KINDS.map(face).into()
}

/// A disk as a file.
struct Face {
    disk: Subject,
    kind: Kind,
    name: String,
    ino: u64,
    /// The layout of a container is worked out once.
    opened: OnceLock<Arc<dyn ReadAt>>,
}

impl Inode for Face {
    fn attributes(&self) -> Result<Attributes> {
        let size = match self.kind {
            // What most look at needs no layout.
            Kind::Raw => self.disk.image.get()?.disk.size(),
            _ => self.open()?.size(),
        };
        Ok(Attributes::of_file(self.ino, 0o440, size, self.disk.time))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl File for Face {
    fn open(&self) -> Result<Arc<dyn ReadAt>> {
        if let Some(opened) = self.opened.get() {
            return Ok(Arc::clone(opened));
        }
        let disk: Arc<dyn BlockDevice> = Arc::<Disk>::clone(&self.disk.image.get()?.disk);
        let opened = containers::open(self.kind, &self.name, &disk, &self.disk.identity)?;
        Ok(Arc::clone(self.opened.get_or_init(|| opened)))
    }

    fn image(&self) -> Result<Option<Arc<Image>>> {
        self.disk.image.get().map(Some)
    }

    fn digest(&self) -> Result<Option<StoredDigest>> {
        Ok(None)
    }
}
