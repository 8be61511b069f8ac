//! Directories in their four forms: in the inode, in one block, in blocks with hashes beside them, and with a tree of
//! hashes.
//!
//! The fork of a large directory has three parts, each of 32 GiB: entries, hashes, free space. Listing needs the first
//! only; a lookup asks the second. ("Directories".)

mod data;
mod hashed;
mod short;

use std::ops::ControlFlow;

use blockdev::{Error, Result};

use super::{
    inode::{Format, Inode},
    volume::Volume,
};
use crate::{DirEntry, FileId, Kind};

/// Where the hashes of a directory begin in its fork, in bytes.
const HASHES_START: u64 = 1 << 35;

/// An entry as it is stored.
struct Stored<'a> {
    name: &'a [u8],
    inode: u64,
    /// Type of the file; 0 where the directory does not say it.
    ftype: u8,
    cookie: u64,
}

/// Calls `sink` for each entry of the directory `inode` after `cookie`.
///
/// # Errors
///
/// When it is not a directory or cannot be read.
pub fn list(
    volume: &Volume,
    inode: &Inode,
    cookie: u64,
    sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>,
) -> Result<()> {
    check_kind(inode)?;
    let mut give = |entry: Stored<'_>| {
        if matches!(entry.name, b"." | b"..") {
            return ControlFlow::Continue(());
        }
        let kind = kind(volume, &entry);
        sink(DirEntry { name: entry.name.to_vec(), id: FileId::of(entry.inode), kind, cookie: entry.cookie })
    };
    match inode.data.format {
        Format::Local => short::list(volume, inode, cookie, &mut give),
        _ => data::list(volume, inode, cookie, &mut give),
    }
}

/// The entry `name` of the directory `inode`.
///
/// # Errors
///
/// When it is not a directory or cannot be read.
pub fn lookup(volume: &Volume, inode: &Inode, name: &[u8]) -> Result<Option<FileId>> {
    check_kind(inode)?;
    if matches!(name, b"." | b"..") {
        return Ok(None);
    }
    let found = match inode.data.format {
        Format::Local => short::lookup(volume, inode, name)?,
        _ => hashed::lookup(volume, inode, name)?,
    };
    Ok(found.map(FileId::of))
}

fn check_kind(inode: &Inode) -> Result<()> {
    match inode.kind {
        Kind::Dir => Ok(()),
        _ => Err(Error::invalid(format!("inode {} is not a directory", inode.number))),
    }
}

/// The type of the file of `entry`. Where only its inode could tell and cannot be read, it is called a file: asking for
/// that then says what is wrong.
fn kind(volume: &Volume, entry: &Stored<'_>) -> Kind {
    match entry.ftype {
        1 => Kind::File,
        2 => Kind::Dir,
        3 | 8 => Kind::CharDevice, // 8 is a whiteout, a device without number
        4 => Kind::BlockDevice,
        5 => Kind::Fifo,
        6 => Kind::Socket,
        7 => Kind::Symlink,
        _ => volume.inode(entry.inode).map_or(Kind::File, |inode| inode.kind),
    }
}
