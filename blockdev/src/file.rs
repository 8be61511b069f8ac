//! Files and block devices of the host: as sources, and raw disks in files that can be written.

use std::{
    fs::File,
    ops::Range,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
};

use rustix::fs::{FallocateFlags, FileType, SeekFrom};

use crate::{
    BlockDevice, BlockSizes, Error, Extent, ExtentKind, MappedRun, ReadAt, Result, WriteAt,
    origin::{Origin, Source},
};

/// A file or block device of the host, opened for reading.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    name: String,
    size: u64,
    /// Device and inode, for telling that two are the same file.
    identity: u64,
}

impl HostFile {
    /// The file at `path`.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or is neither a regular file nor a block device.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(format!("cannot open {}", path.display()), e))?;
        Self::new(file, path.display().to_string())
    }

    /// An open file; `name` is for messages.
    ///
    /// # Errors
    ///
    /// When its size cannot be told, or it is neither a regular file nor a block device.
    pub fn new(file: File, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let failed = |e: rustix::io::Errno| Error::io(format!("cannot read {name}"), e.into());
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        let size = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            FileType::BlockDevice => rustix::fs::seek(&file, SeekFrom::End(0)).map_err(failed)?,
            _ => return Err(Error::invalid(format!("{name} is neither a file nor a block device"))),
        };
        let identity = (stat.st_dev.rotate_left(40) ^ stat.st_ino).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Ok(Self { file, name, size, identity })
    }
}

impl ReadAt for HostFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let mut done = 0;
        while done < wanted {
            let rest = buf.get_mut(done..wanted).unwrap_or_default();
            match rustix::io::pread(self.file.as_fd(), rest, offset + done as u64) {
                Ok(0) => {
                    return Err(Error::damaged(format!("{} has become shorter than {} bytes", self.name, self.size)));
                }
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    let at = offset + done as u64;
                    return Err(Error::io(format!("cannot read {} at byte {at}", self.name), e.into()));
                }
            }
        }
        Ok(done)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data.min(self.size),
            Err(rustix::io::Errno::NXIO) => self.size,
            // Not every filesystem and no block device knows holes.
            Err(_) => offset,
        };
        if data > offset {
            return Ok(Some(Extent { range: offset..data, kind: ExtentKind::Hole }));
        }
        let end = rustix::fs::seek(&self.file, SeekFrom::Hole(offset)).unwrap_or(self.size);
        // A file that is being changed may give anything.
        let end = if end > offset { end.min(self.size) } else { self.size };
        Ok(Some(Extent { range: offset..end, kind: ExtentKind::Data }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        let len = len.min(self.size.checked_sub(offset)?);
        (len > 0).then_some(MappedRun { file: &self.file, offset, len })
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        Ok(Origin { len: limit, source: Source::Stored { file: self.identity, offset } })
    }
}

impl BlockDevice for HostFile {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

/// A raw disk in a file of the host, which can be written.
#[derive(Debug)]
pub struct RawDisk {
    read: HostFile,
}

impl RawDisk {
    /// Make the file `path`, which must not exist, a disk of `size` bytes, all zeros, none of them stored. Only its owner
    /// can read it.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
        let failed = |e| Error::io(format!("cannot make {}", path.display()), e);
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.set_len(size).map_err(failed)?;
        Ok(Self { read: HostFile::new(file, path.display().to_string())? })
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io(format!("cannot write {}", self.read.name), error)
    }

    fn check(&self, range: &Range<u64>) -> Result<()> {
        if range.start > range.end || range.end > self.read.size {
            let Range { start, end } = range;
            return Err(Error::invalid(format!("bytes {start}..{end} are not all within {}", self.read.name)));
        }
        Ok(())
    }
}

impl ReadAt for RawDisk {
    fn size(&self) -> u64 {
        self.read.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.read.extent_at(offset)
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        self.read.map(offset, len)
    }
}

impl BlockDevice for RawDisk {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

impl WriteAt for RawDisk {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check(&(offset..offset.saturating_add(buf.len() as u64)))?;
        self.read.file.write_all_at(buf, offset).map_err(|e| self.failed(e))
    }

    fn write_zeroes(&self, range: Range<u64>, keep: bool) -> Result<()> {
        self.check(&range)?;
        if range.is_empty() {
            return Ok(());
        }
        let how = if keep { FallocateFlags::ZERO_RANGE } else { FallocateFlags::PUNCH_HOLE };
        let len = range.end - range.start;
        match rustix::fs::fallocate(&self.read.file, how | FallocateFlags::KEEP_SIZE, range.start, len) {
            Ok(()) => Ok(()),
            // Not every filesystem can.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let zeros = vec![0; (1 << 20).min(usize::try_from(len).unwrap_or(usize::MAX))];
                let mut at = range.start;
                while at < range.end {
                    let n = zeros.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
                    self.write_at(zeros.get(..n).unwrap_or_default(), at)?;
                    at += n as u64;
                }
                Ok(())
            }
            Err(e) => Err(self.failed(e.into())),
        }
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.write_zeroes(range, false)
    }

    fn flush(&self) -> Result<()> {
        self.read.file.sync_data().map_err(|e| self.failed(e))
    }
}
