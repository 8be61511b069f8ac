//! A disk of the machine as a file of the datastore.
//!
//! The bytes are on a device that takes writes (an overlay over the backup). Everything else that a file has, its length,
//! owner, mode and times, is that of a place holder: an empty file of the host's folder, of which this module holds a
//! second name that no client can reach. So what clients do with names (move it, remove it, link it) the host's
//! filesystem does with the place holder, atomically and for good, and the device knows nothing of it.

use std::{
    fs::File,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use blockdev::{
    BlockDevice, BlockSizes, Error, Extent, ExtentKind, MappedRun, ReadAt, Result, WriteAt, origin::Origin,
};
use parking_lot::{Mutex, RwLock};

use super::host::{self, OrFailed, Target};
use crate::node::{Attributes, Changes, SetAttributes, SetTime, Stamp, Time, Update, WritableFile};

/// What a container's bytes are followed by, so that its file can grow: zeros up to `size`.
pub struct Roomy {
    content: Arc<dyn ReadAt>,
    size: u64,
    sizes: BlockSizes,
}

impl Roomy {
    /// `content`, and zeros up to `size`.
    pub fn new(content: Arc<dyn ReadAt>, size: u64, sizes: BlockSizes) -> Self {
        Self { size: size.max(content.size()), content, sizes }
    }
}

impl ReadAt for Roomy {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = buf.len().min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let buf = buf.get_mut(..n).unwrap_or_default();
        let stored = usize::try_from(self.content.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(n);
        let (stored, zeros) = buf.split_at_mut(stored);
        zeros.fill(0);
        if !stored.is_empty() && self.content.read_at(stored, offset)? != stored.len() {
            return Err(Error::damaged(format!("the image file ends before byte {}", self.content.size())));
        }
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset < self.content.size() {
            return self.content.extent_at(offset);
        }
        Ok((offset < self.size).then_some(Extent { range: offset..self.size, kind: ExtentKind::Hole }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        if offset < self.content.size() { self.content.map(offset, len) } else { None }
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        match self.content.size().checked_sub(offset) {
            Some(stored @ 1..) => self.content.origin_at(offset, limit.min(stored)),
            _ => Ok(Origin::unknown(limit)),
        }
    }
}

impl BlockDevice for Roomy {
    fn block_sizes(&self) -> BlockSizes {
        self.sizes
    }
}

/// A disk.
pub struct Disk {
    /// The name that it had at first.
    name: String,
    device: Arc<dyn WriteAt>,
    place: File,
    /// Taken alone by who cuts the file, so that nobody writes behind the new end meanwhile.
    cut: RwLock<()>,
    state: Mutex<State>,
    /// The length again, for readers.
    size: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

struct State {
    attributes: Attributes,
    /// The place holder has not been told the last times.
    times: bool,
    /// The place holder has been told something that no sync has followed.
    unsynced: bool,
}

impl Disk {
    /// The disk of `device` whose place holder is `place`, with the number `ino`.
    ///
    /// # Errors
    ///
    /// When the place holder cannot be read.
    pub fn new(name: String, device: Arc<dyn WriteAt>, place: File, ino: u64) -> Result<Self> {
        let stat = host::stat(&place, None).or_failed("read the attributes of", name.as_bytes())?;
        let mut attributes = host::attributes(ino, &stat);
        // Clients may have seen times that the place holder was not told before this program ended, and what they keep may
        // have been lost with it: they have to look again.
        attributes.ctime = now().max(attributes.ctime);
        attributes.nlink = names(attributes.nlink);
        attributes.allocated = attributes.size;
        let size = AtomicU64::new(attributes.size);
        let state = Mutex::new(State { attributes, times: false, unsynced: false });
        let (read, written) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { name, device, place, cut: RwLock::new(()), state, size, read, written })
    }

    /// The name that it had at first.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that clients have read and written.
    pub fn traffic(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed))
    }

    /// Names that clients see.
    pub fn names(&self) -> u32 {
        self.state.lock().attributes.nlink
    }

    /// Its number of names has changed.
    ///
    /// # Errors
    ///
    /// When the place holder cannot be read.
    pub fn renamed(&self) -> Result<()> {
        let stat = host::stat(&self.place, None).or_failed("read the attributes of", self.name.as_bytes())?;
        self.update(|attributes| attributes.nlink = names(stat.stx_nlink), false);
        Ok(())
    }

    /// Change the attributes by `change`.
    fn update(&self, change: impl FnOnce(&mut Attributes), content: bool) -> Update {
        let mut state = self.state.lock();
        let before = Stamp::from(&state.attributes);
        change(&mut state.attributes);
        // It has to move, however quick the changes are.
        let moment = now().max(after(before.ctime));
        state.attributes.ctime = moment;
        if content {
            state.attributes.mtime = moment;
            state.times = true;
        }
        Update { before, after: state.attributes.clone() }
    }

    fn resized(&self, len: u64, at_least: bool) -> Result<Update> {
        let mut grown = Ok(());
        let update = self.update(
            |attributes| {
                let len = if at_least { len.max(attributes.size) } else { len };
                if len != attributes.size {
                    grown = self.place.set_len(len);
                    if grown.is_ok() {
                        attributes.size = len;
                        attributes.allocated = len;
                        self.size.store(len, Ordering::Release);
                    }
                }
            },
            true,
        );
        if update.before.size != update.after.size {
            self.state.lock().unsynced = true;
        }
        grown.or_failed("change the length of", self.name.as_bytes())?;
        Ok(update)
    }

    /// What is behind the end is zeros, always: so growing needs nothing but a number.
    fn set_len(&self, len: u64) -> Result<()> {
        self.check_limit(len)?;
        let _alone = self.cut.write();
        let size = self.size.load(Ordering::Acquire);
        if len < size {
            self.device.write_zeroes(len..size, false)?;
            // Before the place holder says so: or a crash between the two would bring back what was cut off.
            self.device.flush()?;
        }
        self.resized(len, false).map(drop)
    }

    fn check_limit(&self, end: u64) -> Result<()> {
        if end <= self.device.size() {
            return Ok(());
        }
        let (name, most) = (&self.name, self.device.size());
        Err(Error::invalid(format!("{name} of the datastore would be longer than the {most} bytes that it may have")))
    }
}

impl Changes for Disk {
    fn set_attributes(&self, set: &SetAttributes, expected: Option<Time>) -> Result<Option<Update>> {
        let before = Stamp::from(&self.state.lock().attributes);
        if expected.is_some_and(|expected| expected != before.ctime) {
            return Ok(None);
        }
        if let Some(size) = set.size {
            self.set_len(size)?;
        }
        host::set(Target::Open(&self.place.as_fd()), set, false).or_failed("change", self.name.as_bytes())?;
        let stat = host::stat(&self.place, None).or_failed("read the attributes of", self.name.as_bytes())?;
        let told = host::attributes(0, &stat);
        let update = self.update(
            |attributes| {
                (attributes.permissions, attributes.uid, attributes.gid) = (told.permissions, told.uid, told.gid);
                if set.atime.is_some() {
                    attributes.atime = told.atime;
                }
                match set.mtime {
                    Some(SetTime::At(time)) => attributes.mtime = time,
                    Some(SetTime::Now) => attributes.mtime = now(),
                    None => {}
                }
            },
            false,
        );
        let mut state = self.state.lock();
        state.unsynced = true;
        state.times |= set.mtime.is_some();
        Ok(Some(Update { before, ..update }))
    }

    fn sync(&self) -> Result<()> {
        let (times, unsynced, mtime) = {
            let mut state = self.state.lock();
            let was = (state.times, state.unsynced, state.attributes.mtime);
            (state.times, state.unsynced) = (false, false);
            was
        };
        let done = self.device.flush().and_then(|()| {
            if times {
                // Survives this program; only with something that matters does it have to survive the machine.
                let set = SetAttributes { mtime: Some(SetTime::At(mtime)), ..SetAttributes::default() };
                host::set(Target::Open(&self.place.as_fd()), &set, false).or_failed("change", self.name.as_bytes())?;
            }
            if unsynced { self.place.sync_all().or_failed("make durable", self.name.as_bytes()) } else { Ok(()) }
        });
        if done.is_err() {
            let mut state = self.state.lock();
            state.times |= times;
            state.unsynced |= unsynced;
        }
        done
    }
}

impl WritableFile for Disk {
    fn attributes(&self) -> Result<Attributes> {
        Ok(self.state.lock().attributes.clone())
    }

    fn limit(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = self.size.load(Ordering::Acquire).saturating_sub(offset);
        let n = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = self.device.read_at(buf.get_mut(..n).unwrap_or_default(), offset)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<Update> {
        let end = offset.saturating_add(buf.len() as u64);
        self.check_limit(end)?;
        let _shared = self.cut.read();
        self.device.write_at(buf, offset)?;
        self.written.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.resized(end, true)
    }
}

/// A file's content as it is read by who needs a fixed length.
pub struct Fixed {
    file: Arc<dyn WritableFile>,
    size: u64,
}

impl Fixed {
    /// `file` with the length that it has now.
    ///
    /// # Errors
    ///
    /// When it cannot tell that.
    pub fn new(file: Arc<dyn WritableFile>) -> Result<Self> {
        Ok(Self { size: file.attributes()?.size, file })
    }
}

impl ReadAt for Fixed {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = buf.len().min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let buf = buf.get_mut(..n).unwrap_or_default();
        let read = self.file.read_at(buf, offset)?;
        // It was cut off meanwhile.
        buf.get_mut(read..).unwrap_or_default().fill(0);
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok((offset < self.size).then_some(Extent { range: offset..self.size, kind: ExtentKind::Data }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

/// Names of a place holder that clients see: not the one that is ours.
const fn names(nlink: u32) -> u32 {
    nlink.saturating_sub(1)
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

/// The next moment.
fn after(time: Time) -> Time {
    match time.nanos {
        999_999_999.. => Time { seconds: time.seconds.saturating_add(1), nanos: 0 },
        nanos => Time { nanos: nanos + 1, ..time },
    }
}
