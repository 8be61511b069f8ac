//! Places in the target: directories held open, and the entries made in them.
//!
//! Every system call here takes a directory's descriptor and one checked name (`node::is_name`), and follows no link:
//! that is the whole argument for nothing being written outside the target, and it holds for paths of any length.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use blockdev::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::{Run, metadata};
use crate::node::{Node, is_name};

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The way from the target to an entry of it, shared between all entries of a directory.
pub(super) struct Place {
    parent: Option<Arc<Place>>,
    name: Vec<u8>,
}

impl Place {
    pub(super) fn child(self: &Arc<Self>, name: &[u8]) -> Arc<Self> {
        Arc::new(Self { parent: Some(self.clone()), name: name.to_vec() })
    }

    /// The names from the target down.
    pub(super) fn names(&self) -> Vec<&[u8]> {
        let mut names = Vec::new();
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(at.name.as_slice());
            at = parent;
        }
        names.reverse();
        names
    }

    pub(super) fn path(&self) -> Vec<u8> {
        self.names().join(&b'/')
    }
}

impl Drop for Place {
    /// One after the other: the recursion of the compiler's own would overflow the stack in a deep tree.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut place) = next.and_then(Arc::into_inner) {
            next = place.parent.take();
        }
    }
}

/// A directory of the target. It is shared by the walk and whoever makes an entry in it; when the last one lets go,
/// it gets its own attributes.
pub(super) struct TargetDir<'a> {
    run: &'a Run<'a>,
    fd: OwnedFd,
    place: Arc<Place>,
    /// Device and inode number, to recognize it.
    id: (u64, u64),
    /// It was there before and is to be kept as it was.
    kept: bool,
    finish: Mutex<Option<Node>>,
}

impl<'a> TargetDir<'a> {
    /// The target itself. Links on the way to it are the caller's and are followed.
    pub(super) fn top(run: &'a Run<'a>, path: &Path) -> Result<Self> {
        let context = || format!("cannot use {} as the target", path.display());
        std::fs::create_dir_all(path).map_err(|e| Error::io(context(), e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io(context(), e.into()))?;
        Self::new(run, fd, Arc::new(Place { parent: None, name: Vec::new() }))
    }

    fn new(run: &'a Run<'a>, fd: OwnedFd, place: Arc<Place>) -> Result<Self> {
        let stat = rustix::fs::fstat(&fd).map_err(|e| failed("cannot stat the directory", e))?;
        Ok(Self { run, fd, place, id: (stat.st_dev, stat.st_ino), kept: false, finish: Mutex::new(None) })
    }

    /// The directory `name` in this one, made if there is none.
    pub(super) fn subdir(&self, name: &[u8]) -> Result<Self> {
        let mut kept = false;
        let fd = match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) => self.open_dir(name),
            Err(Errno::EXIST) => match self.open_dir(name) {
                Err(Errno::NOTDIR | Errno::LOOP) if self.run.options.keep_existing => {
                    return Err(Error::invalid("something that is no directory is there already, and is kept"));
                }
                Err(Errno::NOTDIR | Errno::LOOP) => self
                    .unlink(name)
                    .and_then(|()| rustix::fs::mkdirat(&self.fd, name, Mode::RWXU))
                    .and_then(|()| self.open_dir(name)),
                other => {
                    kept = self.run.options.keep_existing;
                    other
                }
            },
            Err(e) => Err(e),
        };
        let fd = fd.map_err(|e| failed("cannot make the directory", e))?;
        let mut dir = Self::new(self.run, fd, self.place.child(name))?;
        dir.kept = kept;
        Ok(dir)
    }

    fn open_dir(&self, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(&self.fd, name, DIR_FLAGS, Mode::empty())
    }

    /// The directory that holds `child`, known to be `parent`, when it was let go in between.
    pub(super) fn reopen(parent: &Remembered<'a>, child: &Self) -> Result<Arc<Self>> {
        if let Some(dir) = parent.dir.upgrade() {
            return Ok(dir);
        }
        let fd = child.open_dir(b"..").map_err(|e| failed("cannot go back to the directory", e))?;
        let mut dir = Self::new(child.run, fd, parent.place.clone())?;
        dir.kept = parent.kept;
        // Somebody who moves directories about must not lead this anywhere else.
        if dir.id == parent.id { Ok(Arc::new(dir)) } else { Err(Error::invalid("the target was moved meanwhile")) }
    }

    /// What is needed to come back to this directory without keeping it open.
    pub(super) fn remember(self: &Arc<Self>) -> Remembered<'a> {
        Remembered { dir: Arc::downgrade(self), id: self.id, kept: self.kept, place: self.place.clone() }
    }

    /// The walk is through with it: it gets the attributes of `node` when the last worker is.
    pub(super) fn finish_as(&self, node: Node) {
        if !self.kept {
            *self.finish.lock() = Some(node);
        }
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        self.place.child(name).path()
    }

    pub(super) fn exists(&self, name: &[u8]) -> bool {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    fn unlink(&self, name: &[u8]) -> rustix::io::Result<()> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())
    }

    /// Make something under a temporary name by `make`, which is called again if the name is taken.
    pub(super) fn temporary<T>(
        &self,
        what: &'static str,
        make: impl Fn(BorrowedFd<'_>, &str) -> rustix::io::Result<T>,
    ) -> Result<(Temporary<'_, 'a>, T)> {
        for _ in 0..16 {
            let name = temporary_name();
            match make(self.fd.as_fd(), &name) {
                Ok(made) => return Ok((Temporary { dir: self, name: Some(name) }, made)),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(failed(what, e)),
            }
        }
        Err(Error::new(ErrorKind::Limit, "no free temporary name"))
    }

    /// Make `name` here another name of the entry `other` of `from`.
    pub(super) fn link(&self, name: &[u8], from: &OwnedFd, other: &[u8]) -> Result<()> {
        let link = || rustix::fs::linkat(from, other, &self.fd, name, AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) => self.unlink(name).and_then(|()| link()),
            other => other,
        };
        linked.map_err(|e| failed("cannot make the hard link", e))
    }

    pub(super) fn duplicate(&self) -> Result<OwnedFd> {
        self.fd.try_clone().map_err(|e| Error::io("cannot keep the target open", e))
    }
}

impl Drop for TargetDir<'_> {
    fn drop(&mut self) {
        let Some(node) = self.finish.get_mut().take() else { return };
        let done = metadata::of(&node).and_then(|wanted| {
            metadata::apply(self.run, &wanted, &metadata::Object::Open(self.fd.as_fd()), &|| self.place.path())
        });
        match done {
            Ok(()) => self.run.tally.directory(),
            Err(e) => self.run.tally.fail_whole(self.place.path(), &e),
        }
    }
}

/// A directory to come back to.
pub(super) struct Remembered<'a> {
    dir: Weak<TargetDir<'a>>,
    id: (u64, u64),
    kept: bool,
    place: Arc<Place>,
}

/// Something that has no name of its own yet; without one it vanishes.
pub(super) struct Temporary<'d, 'a> {
    dir: &'d TargetDir<'a>,
    name: Option<String>,
}

impl Temporary<'_, '_> {
    pub(super) fn place(&self) -> (BorrowedFd<'_>, &str) {
        (self.dir.fd.as_fd(), self.name.as_deref().unwrap_or_default())
    }

    /// Give it its name. What has that name now is replaced, or kept: then `false`.
    pub(super) fn commit(mut self, name: &[u8]) -> Result<bool> {
        let (fd, keep) = (&self.dir.fd, self.dir.run.options.keep_existing);
        let Some(temporary) = self.name.take() else { return Ok(false) };
        let renamed = if keep {
            match rustix::fs::renameat_with(fd, &temporary, fd, name, RenameFlags::NOREPLACE) {
                // Not every filesystem knows that flag.
                Err(Errno::INVAL | Errno::NOSYS) if !self.dir.exists(name) => {
                    rustix::fs::renameat(fd, &temporary, fd, name)
                }
                other => other,
            }
        } else {
            rustix::fs::renameat(fd, &temporary, fd, name)
        };
        let Err(error) = renamed else { return Ok(true) };
        self.name = Some(temporary);
        match error {
            Errno::EXIST | Errno::INVAL | Errno::NOSYS if keep => Ok(false),
            Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => {
                Err(Error::invalid("a directory is in its place: remove it, or extract elsewhere"))
            }
            e => Err(failed("cannot give it its name", e)),
        }
    }
}

impl Drop for Temporary<'_, '_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            let _gone = self.dir.unlink(name.as_bytes());
        }
    }
}

/// The directory at `names` below `top`, step by step.
pub(super) fn descend(top: &OwnedFd, names: &[&[u8]]) -> Result<OwnedFd> {
    let mut at = top.try_clone().map_err(|e| Error::io("cannot keep the target open", e))?;
    for name in names {
        if !is_name(name) {
            return Err(Error::invalid("not a name"));
        }
        at = rustix::fs::openat(&at, *name, DIR_FLAGS, Mode::empty())
            .map_err(|e| failed("cannot open a directory of the target", e))?;
    }
    Ok(at)
}

/// An operating-system error without the path: whoever reports it adds that.
pub(super) fn failed(what: &'static str, errno: Errno) -> Error {
    Error::io(what, errno.into())
}

/// A name that nobody can have prepared something under.
fn temporary_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // `RandomState` is the standard library's source of random keys.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(count);
    format!(".revenant-{count:x}-{:016x}.part", hasher.finish())
}
