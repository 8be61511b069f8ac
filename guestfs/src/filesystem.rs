//! What a filesystem of a guest is, whatever its family.
//!
//! Names, link targets and attribute values are bytes, as Unix has them. Names that a filesystem stores in UTF-16 are
//! given in UTF-8; a surrogate without its partner is given as the three bytes that UTF-8 would have for it (WTF-8), so
//! that different names stay different.

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{Error, Result, images::layer::Layer, partitions::FsKind};

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Directory.
    Dir,
    /// Regular file.
    File,
    /// Symbolic link.
    Symlink,
    /// Fifo.
    Fifo,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Socket.
    Socket,
}

/// Whole seconds and nanoseconds since 1970, before it negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below a thousand million.
    pub nanos: u32,
}

/// One extended attribute: its full name (`user.x`, `system.posix_acl_access`) and value in the kernel's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Name with its namespace.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// Which file of a filesystem is meant. Hard links of one file have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// The subvolume or dataset; 0 where the family has none.
    pub tree: u64,
    /// The inode, record or object number; for families without, the place of the directory entry.
    pub number: u64,
}

impl FileId {
    /// The file `number` of a filesystem without subvolumes.
    #[must_use]
    pub const fn of(number: u64) -> Self {
        Self { tree: 0, number }
    }
}

/// What `stat` says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Type.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits (`0o7777`). Families without have `0o755` and `0o644`, and without
    /// the write bits where the file is read-only.
    pub permissions: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner; 0 in families without.
    pub uid: u32,
    /// Group; 0 in families without.
    pub gid: u32,
    /// Device number of device nodes: major and minor.
    pub rdev: (u32, u32),
    /// Length of the content in bytes; of a symbolic link that of its target; of a directory what the family says.
    pub size: u64,
    /// Bytes that are allocated for it.
    pub allocated: u64,
    /// Last access.
    pub accessed: Time,
    /// Last change of the content.
    pub modified: Time,
    /// Last change of the metadata; the last change of the content where the family keeps no other.
    pub changed: Time,
    /// When it was made, where the family says it.
    pub created: Option<Time>,
}

impl Metadata {
    /// That of a file in a family without owners and modes: its size and times are to be filled in.
    pub(crate) fn without_owner(kind: Kind, is_read_only: bool) -> Self {
        let permissions = match kind {
            Kind::Dir => 0o755,
            Kind::Symlink => 0o777,
            _ if is_read_only => 0o444,
            _ => 0o644,
        };
        let time = Time::default();
        Self {
            kind,
            permissions,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            size: 0,
            allocated: 0,
            accessed: time,
            modified: time,
            changed: time,
            created: None,
        }
    }
}

/// One line of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name as stored; never `.` or `..`. It may be one that Unix cannot show (with `/` or NUL): whoever shows it
    /// has to deal with that.
    pub name: Vec<u8>,
    /// The file.
    pub id: FileId,
    /// Its type.
    pub kind: Kind,
    /// Where to go on after this entry; never 0, below 2^62.
    pub cookie: u64,
}

/// A further stream of content beside a file's own (NTFS: alternate data stream).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: Vec<u8>,
    /// Length in bytes.
    pub size: u64,
}

/// What is known of a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Family and version.
    pub kind: FsKind,
    /// Its label.
    pub label: Option<String>,
    /// Its UUID or serial number, as `blkid` writes it.
    pub uuid: Option<String>,
    /// Bytes of its unit of allocation.
    pub block_size: u32,
    /// What an operator should know, a sentence each: a journal that was replayed in memory, changes that are not shown
    /// because they are in a log only, members that are missing, a family that is experimental.
    pub notes: Vec<String>,
}

/// How full a filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes for content.
    pub total: u64,
    /// Bytes of them that are free.
    pub free: u64,
    /// Files there can be, where that is limited.
    pub files: Option<u64>,
    /// Files that can still be made.
    pub files_free: Option<u64>,
}

/// A filesystem of a guest, to be read by any number of threads at once.
///
/// # Contract
///
/// * Nothing is known of the bytes: every call ends, in time and memory that do not depend on what they claim, and
///   contradictions are [`Damaged`](blockdev::ErrorKind::Damaged) errors that name the file or the place.
/// * What has a checksum in the filesystem is checked before it is believed.
/// * A [`FileId`] that this filesystem did not give is answered with an error or as some file, never with a panic.
/// * Caches are bounded, and shared by all callers.
pub trait FileSystem: Send + Sync {
    /// What is known of it.
    fn info(&self) -> &Info;

    /// How full it is.
    ///
    /// # Errors
    ///
    /// When that cannot be read.
    fn usage(&self) -> Result<Usage>;

    /// Its topmost directory.
    fn root(&self) -> FileId;

    /// The directory that a mount without options shows: the topmost one, but for a btrfs with another default subvolume.
    fn default_root(&self) -> FileId {
        self.root()
    }

    /// The entry called `name` of `dir`, exactly so spelled.
    ///
    /// # Errors
    ///
    /// When `dir` is not a directory or cannot be read; an entry that is not there is `Ok(None)`.
    fn lookup(&self, dir: FileId, name: &[u8]) -> Result<Option<FileId>>;

    /// Call `sink` for each entry of `dir` after the one whose cookie is `cookie` (0: from the start), until it breaks.
    /// The order is always the same. Going on from a cookie costs no more than a lookup. `sink` may call into the
    /// filesystem.
    ///
    /// # Errors
    ///
    /// When `dir` is not a directory or cannot be read; entries before the damaged place were given.
    fn list(&self, dir: FileId, cookie: u64, sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()>;

    /// What `stat` says of `file`.
    ///
    /// # Errors
    ///
    /// When it does not exist or cannot be read.
    fn metadata(&self, file: FileId) -> Result<Metadata>;

    /// Where the content of the regular file `file` is. Its size is that of the [`Metadata`].
    ///
    /// # Errors
    ///
    /// When it is not a regular file, is encrypted by the guest, or cannot be read.
    fn content(&self, file: FileId) -> Result<Arc<dyn Layer>>;

    /// What the symbolic link `link` points to.
    ///
    /// # Errors
    ///
    /// When it is not a symbolic link or cannot be read.
    fn link_target(&self, link: FileId) -> Result<Vec<u8>>;

    /// Extended attributes, POSIX ACLs among them as `system.posix_acl_access` and `_default` in the kernel's form.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    fn xattrs(&self, file: FileId) -> Result<Vec<Xattr>>;

    /// The further streams of `file` (which may be a directory).
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    fn streams(&self, file: FileId) -> Result<Vec<Stream>> {
        let _ = file;
        Ok(Vec::new())
    }

    /// Where the content of the stream `name` of `file` is.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none, otherwise as [`content`](Self::content).
    fn stream(&self, file: FileId, name: &[u8]) -> Result<Arc<dyn Layer>> {
        let _ = file;
        Err(Error::not_found(format!("there is no stream {:?}", String::from_utf8_lossy(name))))
    }
}
