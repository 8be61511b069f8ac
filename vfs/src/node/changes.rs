//! The write side of nodes.
//!
//! Reading and writing are different types: what a backup holds has no method that could change it. A node that can be
//! changed gives one of these traits when it is asked ([`Inode::changes`](super::Inode::changes),
//! [`Dir::writable`](super::Dir::writable), [`File::writable`](super::File::writable)); doors refuse what gives none.
//!
//! Every change tells what the node was right before and right after it, with nothing in between: that is what NFS
//! calls weak cache consistency (RFC 1813, section 2.6), and a door cannot find it out by itself.

use std::sync::Arc;

use blockdev::Result;

use super::{Attributes, Node, Time};

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// That of the change.
    Now,
    /// This one.
    At(Time),
}

/// Attributes to be set; `None`: as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permission bits. Set-id bits are not kept: nothing that is written here is a program of somebody's.
    pub permissions: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes, of files.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
}

/// What tells one state of a node from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
}

impl From<&Attributes> for Stamp {
    fn from(attributes: &Attributes) -> Self {
        Self { size: attributes.size, mtime: attributes.mtime, ctime: attributes.ctime }
    }
}

/// What a change did to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The node right before.
    pub before: Stamp,
    /// The node right after.
    pub after: Attributes,
}

/// How a file is created.
#[derive(Debug, Clone, Copy)]
pub enum Create {
    /// One that is there is taken; of the attributes it is given the length only.
    Any(SetAttributes),
    /// One that is there is an error.
    New(SetAttributes),
    /// One that is there is an error unless it was created by a call with this number and not changed since.
    Exclusive([u8; 8]),
}

/// A node that was made, or was there.
pub struct Made {
    /// The node.
    pub node: Node,
    /// Its attributes.
    pub attributes: Attributes,
    /// What that did to the directory.
    pub dir: Update,
}

/// Room in the place where changes are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Files in all.
    pub files: u64,
    /// Files that can still be made.
    pub free_files: u64,
}

/// What can be changed of every node that can be changed.
pub trait Changes: Send + Sync {
    /// Set attributes. With `expected` only if the node's ctime is this one; otherwise nothing is done and `None` returned.
    ///
    /// # Errors
    ///
    /// When there is no room for a greater length, and when the medium or the system refuses.
    fn set_attributes(&self, set: &SetAttributes, expected: Option<Time>) -> Result<Option<Update>>;

    /// Make durable, over the loss of power, what was changed by calls that have returned: attributes, and the content of
    /// a file or the entries of a directory.
    ///
    /// # Errors
    ///
    /// When the medium fails. What was written since the last success may then be lost.
    fn sync(&self) -> Result<()>;
}

/// A directory whose entries can be changed. Names are such that [`is_name`](super::is_name) is true for them.
///
/// All directories below a writable one are writable, and belong to the same [`tree`](Self::tree).
pub trait WritableDir: Changes {
    /// Create the file `name`, or take the one that is there.
    ///
    /// # Errors
    ///
    /// `Exists`; `NoSpace`; when the medium or the system refuses.
    fn create(&self, name: &[u8], how: &Create) -> Result<Made>;

    /// Make the directory `name`.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    fn make_dir(&self, name: &[u8], set: &SetAttributes) -> Result<Made>;

    /// Make the symbolic link `name`.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    fn make_symlink(&self, name: &[u8], target: &[u8], set: &SetAttributes) -> Result<Made>;

    /// Make `name` another name of the node of this tree, no directory, that has the number `ino`.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such node; otherwise as [`create`](Self::create).
    fn link(&self, name: &[u8], ino: u64) -> Result<Update>;

    /// Remove the entry `name`, which is no directory. Who has the file open goes on with it.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Invalid` when it is a directory; when the medium or the system refuses.
    fn remove_file(&self, name: &[u8]) -> Result<Update>;

    /// Remove the empty directory `name`.
    ///
    /// # Errors
    ///
    /// `NotEmpty`; `Invalid` when it is no directory; otherwise as [`remove_file`](Self::remove_file).
    fn remove_dir(&self, name: &[u8]) -> Result<Update>;

    /// Make `name` the entry `to_name` of the directory of this tree that has the number `to`, in place of one of that
    /// name: a file for a file, an empty directory for a directory. The changes of both directories.
    ///
    /// # Errors
    ///
    /// `Exists` when a directory would take the place of something else or the reverse; `NotEmpty`; `Invalid` when a
    /// directory would come to lie in itself; otherwise as [`remove_file`](Self::remove_file).
    fn rename(&self, name: &[u8], to: u64, to_name: &[u8]) -> Result<(Update, Update)>;

    /// The number of the topmost directory that can be changed together with this one.
    fn tree(&self) -> u64;

    /// The way from that directory to the node with the number `ino`: names; empty for itself. `None` when there is none.
    fn locate(&self, ino: u64) -> Option<Vec<Vec<u8>>>;

    /// The room that there is.
    ///
    /// # Errors
    ///
    /// When the medium does not tell.
    fn space(&self) -> Result<Space>;
}

/// A file whose content can be changed, opened.
pub trait WritableFile: Changes {
    /// What `stat` says, also after the last name was removed.
    ///
    /// # Errors
    ///
    /// As [`Inode::attributes`](super::Inode::attributes).
    fn attributes(&self) -> Result<Attributes>;

    /// The longest that it can become, in bytes.
    fn limit(&self) -> u64;

    /// Fill `buf` from `offset` on; how many bytes there were: fewer only at the end of the file.
    ///
    /// # Errors
    ///
    /// When a byte cannot be read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// Write all of `buf` at `offset`, which makes the file longer where needed: zeros are what was not written.
    ///
    /// # Errors
    ///
    /// `Invalid` past [`limit`](Self::limit); `NoSpace`; when the medium fails. Any part may have been written then.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<Update>;
}

/// A file that can be changed and read through one [`Arc`].
pub type OpenFile = Arc<dyn WritableFile>;
