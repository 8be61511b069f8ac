//! Where an image may look for its other files.
//!
//! A backing file name, an extent name or a parent locator is text that a guest or a stranger may have written:
//! `/etc/shadow` is a fine backing file name. So an image never opens anything by itself; it asks a [`Neighbours`],
//! which knows only the files beside the image, in the same folder or the same backup.

use std::{fs::File, os::fd::OwnedFd, path::Path, sync::Arc};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::{Error, ReadAt, Result, file::HostFile};

/// The files beside an image.
pub trait Neighbours: Send + Sync {
    /// The file `name`, a single name without any separator (see [`base_name`]); `None` if there is no such file.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be opened.
    fn find(&self, name: &str) -> Result<Option<Arc<dyn ReadAt>>>;
}

/// No files at all: an image that needs another cannot be opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Neighbours for Alone {
    fn find(&self, _name: &str) -> Result<Option<Arc<dyn ReadAt>>> {
        Ok(None)
    }
}

/// The regular files of one folder of the host, and nothing else: no subfolder, no symbolic link, no device.
#[derive(Debug)]
pub struct HostFolder(OwnedFd);

impl HostFolder {
    /// The folder at `path`.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        opened.map(Self).map_err(|e| Error::io(format!("cannot open {}", path.display()), e.into()))
    }
}

impl Neighbours for HostFolder {
    fn find(&self, name: &str) -> Result<Option<Arc<dyn ReadAt>>> {
        if base_name(name) != Some(name) {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.0, name, flags, Mode::empty(), resolve) {
            Ok(file) => {
                let file = File::from(file);
                let regular = file.metadata().is_ok_and(|m| m.is_file());
                Ok(if regular { Some(Arc::new(HostFile::new(file, name)?)) } else { None })
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP | rustix::io::Errno::XDEV) => Ok(None),
            Err(e) => Err(Error::io(format!("cannot open {name:?} beside the image"), e.into())),
        }
    }
}

/// The last part of a path as any system writes it (`C:\VMs\web01-flat.vmdk`, `/var/x.qcow2`, `json:` and URLs are no
/// paths); `None` where that is no name.
#[must_use]
pub fn base_name(path: &str) -> Option<&str> {
    let name = path.rsplit(['/', '\\']).next()?;
    (!matches!(name, "" | "." | "..") && !name.contains('\0')).then_some(name)
}
