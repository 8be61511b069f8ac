//! What an overlay asks of the file it is stored in, and the host's file that gives it.
//!
//! A trait, so that tests can put a file under an overlay that loses power, or has no room, at any moment.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::FileExt, unix::fs::OpenOptionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};
use rustix::fs::{FallocateFlags, SeekFrom};

use crate::{Error, ErrorKind, Result};

/// A file that can be written at any offset by any number of threads at once.
///
/// What one thread has written, all others read at once. It is durable only after the next [`sync`](Self::sync) has
/// succeeded; until then the medium may make durable any part of it, in any order, in units of at least 512 bytes.
pub trait Medium: Send + Sync {
    /// Fill `buf` from `offset` on; where the file ends before, with zeros.
    ///
    /// # Errors
    ///
    /// When the medium fails.
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Write all of `buf` at `offset`, making the file longer where needed.
    ///
    /// # Errors
    ///
    /// When there is no room, or the medium fails. Any part may have been written.
    fn write(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Make durable all writes that have returned before.
    ///
    /// # Errors
    ///
    /// When the medium fails: nothing is then known about what was written since the last success.
    fn sync(&self) -> io::Result<()>;

    /// The length of the file in bytes.
    ///
    /// # Errors
    ///
    /// When the medium fails.
    fn size(&self) -> io::Result<u64>;

    /// Cut the file to `len` bytes, or make it so long by a hole.
    ///
    /// # Errors
    ///
    /// When the medium fails.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Make `len` bytes from `offset` on zeros and give their room back.
    ///
    /// # Errors
    ///
    /// When the medium cannot do that; the bytes are then as before.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Make sure that writing `len` bytes from `offset` on finds room. What they hold does not change.
    ///
    /// # Errors
    ///
    /// When there is no room. A medium that cannot know says yes.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;

    /// The first byte at or after `offset` that may not be in a hole; `None` when all up to the end are.
    ///
    /// # Errors
    ///
    /// When the medium fails.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;

    /// Bytes that the file occupies.
    ///
    /// # Errors
    ///
    /// When the medium fails.
    fn occupied(&self) -> io::Result<u64>;

    /// The file itself, for zero-copy doors.
    fn file(&self) -> Option<&File>;
}

/// A file of the host, locked against every other process that would open it as a disk.
#[derive(Debug)]
pub struct HostMedium(File);

impl HostMedium {
    /// Make the file `path`, which must not exist.
    ///
    /// # Errors
    ///
    /// `Invalid` when it exists.
    pub fn create(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::invalid(format!("{} exists already: open it, or remove it first", path.display()))
            }
            _ => Error::io(format!("cannot create the overlay {}", path.display()), e),
        })?;
        Self::locked(file, path)
    }

    /// Open the file `path`.
    ///
    /// # Errors
    ///
    /// When it cannot be opened for writing; `Locked` when another process has it open.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|e| Error::io(format!("cannot open the overlay {}", path.display()), e))?;
        Self::locked(file, path)
    }

    /// QEMU guards its images by open-file-description locks of single bytes. One lock of all bytes therefore keeps
    /// out `qemu-img` and `qemu-nbd` as well as another process of ours, and it ends with the process.
    fn locked(file: File, path: &Path) -> Result<Self> {
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            Ok(_) => Ok(Self(file)),
            Err(Errno::EAGAIN | Errno::EACCES) => Err(Error::new(
                ErrorKind::Locked,
                format!("the overlay {} is in use by another process: end that one first", path.display()),
            )),
            Err(e) => Err(Error::io(format!("cannot lock the overlay {}", path.display()), e.into())),
        }
    }
}

impl Drop for HostMedium {
    /// Closing alone is not enough: a process that was forked from this one and has not come to its `exec` yet has the
    /// file open too, and with it the lock.
    fn drop(&mut self) {
        let _ = fcntl(self.0.as_fd(), FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)));
    }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

impl Medium for HostMedium {
    fn read(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.0.read_at(buf, offset) {
                Ok(0) => {
                    buf.fill(0);
                    return Ok(());
                }
                Ok(n) => {
                    offset += n as u64;
                    buf = buf.get_mut(n..).unwrap_or_default();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn write(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, offset, len) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.0, SeekFrom::Data(offset)) {
            Ok(data) => Ok(Some(data)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(_) => Ok((offset < self.size()?).then_some(offset)),
        }
    }

    fn occupied(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstat(&self.0)?;
        Ok(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
    }

    fn file(&self) -> Option<&File> {
        Some(&self.0)
    }
}
