//! Owner, extended attributes, mode and times, in the order in which they do not undo each other: a change of owner
//! takes set-id bits and capabilities away, an ACL changes the mode, and everything but the times may change times.

use blockdev::{Error, Result};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{Run, target::failed};
use crate::node::{Attributes, Kind, Node, Time, Xattr};

/// What a node shall have.
pub(super) struct Wanted {
    pub(super) attributes: Attributes,
    pub(super) xattrs: Result<Vec<Xattr>>,
}

/// What `node` has.
pub(super) fn of(node: &Node) -> Result<Wanted> {
    let inode = node.inode();
    Ok(Wanted { attributes: inode.attributes()?, xattrs: inode.xattrs() })
}

/// The thing that gets it.
pub(super) enum Object<'a> {
    /// A file or directory that is open.
    Open(BorrowedFd<'a>),
    /// Anything else, by a descriptor that only points to it, and by its place.
    Place(OwnedFd, BorrowedFd<'a>, &'a str),
}

impl<'a> Object<'a> {
    /// Point to the entry `name` of `dir`, whatever it is.
    pub(super) fn at((dir, name): (BorrowedFd<'a>, &'a str)) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| failed("cannot open it", e))?;
        Ok(Self::Place(fd, dir, name))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(fd) => *fd,
            Self::Place(fd, ..) => fd.as_fd(),
        }
    }

    /// A path that leads to exactly this thing: some calls take no descriptor that only points.
    fn proc_path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", self.fd().as_raw_fd())
    }

    fn set_owner(&self, uid: u32, gid: u32) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(self.fd(), "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
    }

    fn set_xattr(&self, xattr: &Xattr) -> rustix::io::Result<()> {
        let name = xattr.name.as_slice();
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, &xattr.value, XattrFlags::empty()),
            Self::Place(..) => rustix::fs::setxattr(self.proc_path(), name, &xattr.value, XattrFlags::empty()),
        }
    }

    fn set_mode(&self, mode: u32) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            Self::Place(..) => rustix::fs::chmodat(CWD, self.proc_path(), mode, AtFlags::empty()),
        }
    }

    fn set_times(&self, times: &Timestamps) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, times),
            Self::Place(_, dir, name) => rustix::fs::utimensat(dir, *name, times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }
}

/// Give `object` what is `wanted`. What the target's filesystem or a lack of rights refuses is a warning.
///
/// # Errors
///
/// When the disk is full, which is never only about attributes.
pub(super) fn apply(run: &Run<'_>, wanted: &Wanted, object: &Object<'_>, path: &dyn Fn() -> Vec<u8>) -> Result<()> {
    let a = &wanted.attributes;
    let check = |what: std::fmt::Arguments<'_>, done: rustix::io::Result<()>| match done {
        Ok(()) => Ok(true),
        Err(e @ (Errno::NOSPC | Errno::DQUOT)) => Err(failed("cannot write attributes", e)),
        Err(e) => {
            run.tally.warn(format!("{}: {what} not restored: {}", path().escape_ascii(), std::io::Error::from(e)));
            Ok(false)
        }
    };
    let owned = run.root && check(format_args!("owner {}:{}", a.uid, a.gid), object.set_owner(a.uid, a.gid))?;
    match &wanted.xattrs {
        Ok(xattrs) => {
            for xattr in xattrs {
                if xattr.name.is_empty() || xattr.name.contains(&0) {
                    run.tally.warn(format!("{}: an attribute without a proper name", path().escape_ascii()));
                    continue;
                }
                match object.set_xattr(xattr) {
                    // Only ntfs-3g takes them; every file of a Windows guest has some.
                    Err(Errno::OPNOTSUPP) if xattr.name.starts_with(b"system.ntfs_") => run.tally.warn_once(
                        "security descriptors and attributes of NTFS (system.ntfs_*) are restored to NTFS only; a tar \
                         archive (-o -) keeps them",
                    ),
                    set => _ = check(format_args!("attribute {}", xattr.name.escape_ascii()), set)?,
                }
            }
        }
        Err(e) => warn(run, path, "attributes", e),
    }
    if a.kind != Kind::Symlink {
        // Set-id bits are for the owner they were given to.
        let kept = if owned { 0o7777 } else { 0o1777 };
        if a.permissions & 0o6000 != 0 && !owned {
            run.tally.warn(format!("{}: set-id bits not restored, for its owner is not", path().escape_ascii()));
        }
        check(format_args!("mode {:o}", a.permissions), object.set_mode(a.permissions & kept))?;
    }
    let times = Timestamps { last_access: timespec(a.atime), last_modification: timespec(a.mtime) };
    check(format_args!("times"), object.set_times(&times))?;
    Ok(())
}

pub(super) fn warn(run: &Run<'_>, path: &dyn Fn() -> Vec<u8>, what: &str, error: &Error) {
    run.tally.warn(format!("{}: {what} not restored: {error}", path().escape_ascii()));
}

fn timespec(time: Time) -> Timespec {
    // A larger value would be one of the call's special ones.
    Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos.min(999_999_999)) }
}
