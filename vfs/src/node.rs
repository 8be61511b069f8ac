//! What a tree consists of: directories, files, symbolic links and special files, as traits.
//!
//! Names, link targets and attribute values are bytes, as Unix has them: no encoding is assumed anywhere.

mod changes;

use std::sync::Arc;

use blockdev::{ReadAt, Result, images::Image};
pub use changes::{
    Changes, Create, Made, OpenFile, SetAttributes, SetTime, Space, Stamp, Update, WritableDir, WritableFile,
};
pub use guestfs::{Kind, Time, Xattr};

/// A node of the tree.
#[derive(Clone)]
pub enum Node {
    /// A directory.
    Dir(Arc<dyn Dir>),
    /// A regular file.
    File(Arc<dyn File>),
    /// A symbolic link.
    Symlink(Arc<dyn Symlink>),
    /// A device, fifo or socket.
    Special(Arc<dyn Inode>),
}

impl Node {
    /// The node's inode side, whatever it is.
    #[must_use]
    pub fn inode(&self) -> &dyn Inode {
        match self {
            Self::Dir(n) => n.as_ref(),
            Self::File(n) => n.as_ref(),
            Self::Symlink(n) => n.as_ref(),
            Self::Special(n) => n.as_ref(),
        }
    }
}

/// What `stat` says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number: equal for hard links of one file, otherwise different within the tree. 1 is the root of the
    /// whole tree and nothing else; 0 is nothing (the FUSE protocol reserves both).
    pub ino: u64,
    /// Type.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits (`0o7777`).
    pub permissions: u32,
    /// Number of hard links that the tree shows.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of device nodes: major and minor.
    pub rdev: (u32, u32),
    /// Length in bytes.
    pub size: u64,
    /// Bytes that are stored (holes excepted), for `st_blocks`.
    pub allocated: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
}

impl Attributes {
    /// Those of a directory of root's that everybody may look into.
    #[must_use]
    pub const fn of_folder(ino: u64, time: Time) -> Self {
        Self {
            ino,
            kind: Kind::Dir,
            permissions: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            size: 0,
            allocated: 0,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    /// Those of a regular file of root's with all of its `size` bytes allocated.
    #[must_use]
    pub const fn of_file(ino: u64, permissions: u32, size: u64, time: Time) -> Self {
        Self { kind: Kind::File, permissions, nlink: 1, size, allocated: size, ..Self::of_folder(ino, time) }
    }
}

/// How long what a door knows of a node stays true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// For ever.
    Lasting,
    /// Others may change it, and are not waited for.
    Soon,
    /// Not until the next question: it becomes another from one moment to the next, and each reader reads by itself.
    Now,
}

/// What every node has.
pub trait Inode: Send + Sync {
    /// What `stat` says.
    ///
    /// # Errors
    ///
    /// When the attributes cannot be read from where they are stored.
    fn attributes(&self) -> Result<Attributes>;

    /// Extended attributes, POSIX ACLs among them as `system.posix_acl_access` and `_default`.
    ///
    /// # Errors
    ///
    /// When they cannot be read from where they are stored.
    fn xattrs(&self) -> Result<Vec<Xattr>>;

    /// What can be changed, where anything can. Such a node is found by its number wherever it is moved to.
    fn changes(&self) -> Option<&dyn Changes> {
        None
    }

    /// How long attributes, and the name that led here, may be kept.
    fn freshness(&self) -> Freshness {
        if self.changes().is_some() { Freshness::Soon } else { Freshness::Lasting }
    }

    /// Alternate data streams (Windows: of files and of directories), by name: kept beside the node as `name:stream`.
    ///
    /// # Errors
    ///
    /// When they cannot be found.
    fn alternate_streams(&self) -> Result<Vec<(Vec<u8>, Node)>> {
        Ok(Vec::new())
    }
}

/// One line of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name; [`is_name`] is true for it.
    pub name: Vec<u8>,
    /// Type of the node.
    pub kind: Kind,
    /// Its inode number, as in its [`Attributes`].
    pub ino: u64,
    /// Where to go on after this entry; never 0, below 2^62.
    pub cookie: u64,
}

/// Whether `name` can name an entry of a directory: 1 to 255 bytes, not `.` or `..`, without `/` and NUL.
/// Doors skip, and report, entries of which it is false.
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    (1..=255).contains(&name.len()) && name != b"." && name != b".." && !name.iter().any(|b| matches!(b, b'/' | 0))
}

/// Whether the receiver of a listing wants more.
pub use std::ops::ControlFlow;

/// A directory.
pub trait Dir: Inode {
    /// The child called `name`.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read; a child that does not exist is `Ok(None)`.
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>>;

    /// Call `sink` for each entry after the one whose cookie is `cookie` (0: from the start), until it breaks.
    /// The order stays the same for the life of the tree. May block while entries are still being found. Going on
    /// from a cookie costs no more than a lookup: doors list in small pieces. `sink` does not call into the tree.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()>;

    /// The node at `path` below this directory (components; empty: this directory is meant and `None` is
    /// returned). Providers that can find a long path at once override the step-by-step walk.
    ///
    /// # Errors
    ///
    /// When a directory on the way cannot be read.
    fn walk(&self, path: &[&[u8]]) -> Result<Option<Node>> {
        let Some((first, rest)) = path.split_first() else { return Ok(None) };
        match self.lookup(first)? {
            Some(Node::Dir(dir)) if !rest.is_empty() => dir.walk(rest),
            Some(node) if rest.is_empty() => Ok(Some(node)),
            _ => Ok(None),
        }
    }

    /// The same directory for who changes its entries, where they can be changed.
    fn writable(&self) -> Option<&dyn WritableDir> {
        None
    }
}

/// The digest of a file as it was stored with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDigest {
    /// The algorithm.
    pub algorithm: volreader::digest::Algorithm,
    /// Its value. It covers the bytes of the file's `Data` extents in order, holes excepted.
    pub value: Vec<u8>,
}

/// A regular file.
pub trait File: Inode {
    /// The content, to be read at any offset. Opening may read the volume; it is done once per open file.
    ///
    /// # Errors
    ///
    /// When the content cannot be located or a key for it is missing.
    fn open(&self) -> Result<Arc<dyn ReadAt>>;

    /// The digest stored with the file, if there is one.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    fn digest(&self) -> Result<Option<StoredDigest>>;

    /// The disk that the file is a face of. A disk is not looked for in the bytes of such a file: its guest wrote them.
    ///
    /// # Errors
    ///
    /// When the disk cannot be opened.
    fn image(&self) -> Result<Option<Arc<Image>>> {
        Ok(None)
    }

    /// A number that stands for the content: two files of the same number have the same. `None` where that is not known.
    fn identity(&self) -> Option<u64> {
        None
    }

    /// The same file for who changes its content, where that can be changed: a file whose [`Inode::changes`] are there
    /// always gives one. The content that [`open`](Self::open) gives of such a file has the length of that moment.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    fn writable(&self) -> Result<Option<OpenFile>> {
        Ok(None)
    }
}

/// A symbolic link.
pub trait Symlink: Inode {
    /// What it points to.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    fn target(&self) -> Result<Vec<u8>>;
}
