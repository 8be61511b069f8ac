//! A disk that is put together from the files of its chain while they come.
//!
//! Every file says of some ranges of the disk what they are; of what several say, the newest file is right. Bacula brings the
//! oldest first, mostly; what comes late is written only where no newer one has said anything. So nothing is kept but the
//! new disk and the tables of the files, and in whatever order they come the outcome is the same.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{
    BlockDevice, Error, ErrorKind, Result, WriteAt,
    file::RawDisk,
    images::qcow2::arriving::{DiskMap, Receiver},
    overlay::Overlay,
};
use hv_drivers::driver::FileFormat;

/// How many times larger than in the first file that comes a disk may have become in later ones.
const GROWTH: u64 = 4;
/// And how much larger at least, in bytes.
const GROWTH_MIN: u64 = 16 << 30;

/// A disk that is being made.
pub struct NewDisk {
    path: PathBuf,
    device: Device,
}

enum Device {
    Raw(RawDisk),
    Qcow2(Box<Overlay>),
}

impl NewDisk {
    fn create(path: &Path, format: FileFormat, room: u64) -> Result<Self> {
        let device = match format {
            FileFormat::Raw => Device::Raw(RawDisk::create(path, room)?),
            FileFormat::Qcow2 => Device::Qcow2(Box::new(Overlay::create_alone(path, room)?)),
        };
        Ok(Self { path: path.to_owned(), device })
    }

    fn device(&self) -> &dyn WriteAt {
        match &self.device {
            Device::Raw(raw) => raw,
            Device::Qcow2(overlay) => overlay.as_ref(),
        }
    }

    /// Its bytes, more than it will have.
    pub fn read(&self) -> &dyn BlockDevice {
        match &self.device {
            Device::Raw(raw) => raw,
            Device::Qcow2(overlay) => overlay.as_ref(),
        }
    }

    /// Makes it a disk of `size` bytes; it is durable then.
    fn finish(self, size: u64) -> Result<()> {
        let cannot = |e| Error::io(format!("cannot write {}", self.path.display()), e);
        match self.device {
            Device::Raw(raw) => {
                raw.flush()?;
                drop(raw);
                let file = fs::File::options().write(true).open(&self.path).map_err(cannot)?;
                file.set_len(size).and_then(|()| file.sync_all()).map_err(cannot)
            }
            Device::Qcow2(overlay) => overlay.finish_alone(size),
        }
    }
}

/// A disk, and the files that it is put together from.
pub struct Merging {
    /// Where it is made.
    path: PathBuf,
    format: FileFormat,
    new: Option<NewDisk>,
    /// What the files that have come say, by the numbers of their points.
    maps: BTreeMap<u64, Arc<DiskMap>>,
    /// Bytes that were written to it.
    pub written: u64,
}

impl Merging {
    pub const fn new(path: PathBuf, format: FileFormat) -> Self {
        Self { path, format, new: None, maps: BTreeMap::new(), written: 0 }
    }

    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who takes what comes in the file of point `number`.
    pub const fn receiving(&mut self, number: u64) -> Receiving<'_> {
        Receiving { disk: self, number }
    }

    /// The disk as far as it was made.
    pub const fn made(&self) -> Option<&NewDisk> {
        self.new.as_ref()
    }

    /// Ends it as a disk of `size` bytes.
    ///
    /// # Errors
    ///
    /// When nothing of it has come, or it cannot be written.
    pub fn finish(&mut self, size: u64) -> Result<()> {
        let nothing = || Error::invalid(format!("nothing has come of {}", self.path.display()));
        self.new.take().ok_or_else(nothing)?.finish(size)
    }

    /// As if nothing of it had come.
    pub fn begin_again(&mut self) {
        self.remove();
        self.maps.clear();
        self.written = 0;
    }

    /// Gives it up.
    pub fn remove(&mut self) {
        if self.new.take().is_some()
            && let Err(e) = fs::remove_file(&self.path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            crate::output::note(&format!("cannot remove {}: {e}", self.path.display()));
        }
    }

    fn device(&self) -> Result<&dyn WriteAt> {
        let none = || Error::invalid(format!("{} is not there any more", self.path.display()));
        self.new.as_ref().map(NewDisk::device).ok_or_else(none)
    }

    /// Calls `each` with the pieces of `range` of which no file newer than `number` says anything.
    fn visible(
        &self,
        number: u64,
        range: Range<u64>,
        each: &mut dyn FnMut(&dyn WriteAt, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let device = self.device()?;
        if range.end > device.size() {
            return Err(Error::new(
                ErrorKind::Limit,
                format!(
                    "{} has grown to more than {GROWTH} times its size in its backups: restore it into a folder of another \
                     place, and use `revenant convert` there",
                    self.path.display()
                ),
            ));
        }
        let mut at = range.start;
        while at < range.end {
            let mut len = range.end - at;
            let mut hidden = false;
            for newer in self.maps.range(number + 1..).map(|(_, map)| map) {
                let (tells, for_bytes) = newer.tells(at, len)?;
                len = len.min(for_bytes.max(1));
                if tells {
                    hidden = true;
                    break;
                }
            }
            if !hidden {
                each(device, at..at + len)?;
            }
            at += len;
        }
        Ok(())
    }
}

/// Who takes what comes in one file.
pub struct Receiving<'a> {
    disk: &'a mut Merging,
    number: u64,
}

impl Receiver for Receiving<'_> {
    fn mapped(&mut self, map: &Arc<DiskMap>) -> Result<()> {
        let is_first = self.disk.new.is_none();
        if is_first {
            let room = map.size().saturating_mul(GROWTH).max(map.size().saturating_add(GROWTH_MIN)).min(1 << 50);
            self.disk.new = Some(NewDisk::create(&self.disk.path, self.disk.format, room)?);
        }
        self.disk.maps.insert(self.number, Arc::clone(map));
        if is_first {
            return Ok(());
        }
        map.zeros(&mut |range| {
            self.disk.visible(self.number, range, &mut |device, range| device.write_zeroes(range, false))
        })?;
        if map.backing().is_some() {
            return Ok(());
        }
        // It stands by itself: what an older and larger one has behind its end is no part of the disk any more.
        let room = self.disk.device()?.size();
        self.disk.visible(self.number, map.size()..room, &mut |device, range| device.write_zeroes(range, false))
    }

    fn data(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        self.disk.visible(self.number, range, &mut |device, range| {
            let piece = (range.start - offset) as usize..(range.end - offset) as usize;
            device.write_at(bytes.get(piece).unwrap_or_default(), range.start)
        })?;
        self.disk.written += bytes.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, range: Range<u64>) -> Result<()> {
        self.disk.visible(self.number, range, &mut |device, range| device.write_zeroes(range, false))
    }
}
