//! The host's folder, reached one name at a time: no name leads out of it, and no link is followed.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use blockdev::{Error, Result};
use rustix::{
    fs::{
        AtFlags, Gid, Mode, OFlags, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    },
    io::Errno,
};

use crate::node::{Attributes, Kind, SetAttributes, SetTime, Time};

/// Everything that is kept of what a client may set as a mode.
const MODE: u32 = 0o1777;

/// The directory `name` in `dir`.
pub fn folder(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// The regular file `name` in `dir`, to be read and written. A fifo or a device is not waited for.
pub fn file(dir: impl AsFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?.into())
}

/// The new file `name` in `dir`.
pub fn new_file(dir: impl AsFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?.into())
}

/// What there is to know of an open file, or of the entry `name` of a directory.
pub fn stat(fd: impl AsFd, name: Option<&[u8]>) -> io::Result<Statx> {
    let flags = if name.is_some() { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::EMPTY_PATH };
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(rustix::fs::statx(fd, name.unwrap_or_default(), flags, wanted)?)
}

/// What sort of node it is.
pub fn kind(stat: &Statx) -> Kind {
    use rustix::fs::FileType;
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => Kind::File,
    }
}

/// The attributes of the node that has the number `ino`.
pub fn attributes(ino: u64, stat: &Statx) -> Attributes {
    Attributes {
        ino,
        kind: kind(stat),
        permissions: u32::from(stat.stx_mode) & MODE,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: (0, 0),
        size: stat.stx_size,
        allocated: stat.stx_blocks.saturating_mul(512),
        atime: time(&stat.stx_atime),
        mtime: time(&stat.stx_mtime),
        ctime: time(&stat.stx_ctime),
    }
}

fn time(stamp: &StatxTimestamp) -> Time {
    Time { seconds: stamp.tv_sec, nanos: stamp.tv_nsec }
}

/// A number that no other file of the filesystem has, had or will have: the inode number alone is given again to another
/// file when this one is gone, so the moment of its making belongs to it.
pub fn unique(stat: &Statx) -> [u8; 20] {
    let mut bytes = [0; 20];
    let parts = stat.stx_ino.to_le_bytes().into_iter().chain(stat.stx_btime.tv_sec.to_le_bytes());
    let parts = parts.chain(stat.stx_btime.tv_nsec.to_le_bytes());
    bytes.iter_mut().zip(parts).for_each(|(to, byte)| *to = byte);
    bytes
}

/// An inode whose attributes are set.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// An open file or directory.
    Open(&'a dyn AsFd),
    /// The symbolic link of this name in a directory.
    Link(&'a OwnedFd, &'a [u8]),
}

/// Set all but the length. An owner that this process may not set is an error, unless it is a `wish` only.
pub fn set(target: Target<'_>, set: &SetAttributes, wish: bool) -> io::Result<()> {
    if set.uid.is_some() || set.gid.is_some() {
        // All ones is not set by the system, and no user has it.
        let (uid, gid) = (set.uid.filter(|&id| id != u32::MAX), set.gid.filter(|&id| id != u32::MAX));
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        let done = match target {
            Target::Open(fd) => rustix::fs::fchown(fd.as_fd(), uid, gid),
            Target::Link(dir, name) => rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        };
        match done {
            Err(Errno::PERM) if wish => {}
            done => done?,
        }
    }
    // After the owner, for the system takes bits away when that changes. Links have none.
    if let (Some(permissions), Target::Open(fd)) = (set.permissions, target) {
        rustix::fs::fchmod(fd.as_fd(), Mode::from_raw_mode(permissions & MODE))?;
    }
    if set.atime.is_some() || set.mtime.is_some() {
        let times = Timestamps { last_access: stamp(set.atime), last_modification: stamp(set.mtime) };
        match target {
            Target::Open(fd) => rustix::fs::futimens(fd.as_fd(), &times)?,
            Target::Link(dir, name) => rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?,
        }
    }
    Ok(())
}

fn stamp(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(time)) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.min(999_999_999).into() },
    }
}

/// Make the entries of a directory durable.
pub fn sync_folder(dir: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsync(dir)?)
}

/// An error of the host, in the words of clients: they know no paths of the host.
pub fn failed(what: &str, name: &[u8], error: io::Error) -> Error {
    Error::io(format!("cannot {what} '{}' of the datastore", name.escape_ascii()), error)
}

/// The same as a result.
pub trait OrFailed<T> {
    /// Tell what was being done to which entry.
    fn or_failed(self, what: &str, name: &[u8]) -> Result<T>;
}

impl<T, E: Into<io::Error>> OrFailed<T> for std::result::Result<T, E> {
    fn or_failed(self, what: &str, name: &[u8]) -> Result<T> {
        self.map_err(|e| failed(what, name, e.into()))
    }
}
