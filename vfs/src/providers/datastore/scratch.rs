//! What clients make themselves: ordinary files of the host's folder.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use blockdev::{Error, ErrorKind, Result};
use parking_lot::Mutex;

use super::host::{self, OrFailed, Target};
use crate::node::{Attributes, Changes, SetAttributes, Stamp, Time, Update, WritableFile};

/// How much clients' files may hold. Their lengths count, holes included: what was promised has to be there.
pub struct Room {
    quota: Option<u64>,
    used: AtomicU64,
}

impl Room {
    /// With that many bytes at most.
    pub const fn new(quota: Option<u64>) -> Self {
        Self { quota, used: AtomicU64::new(0) }
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that are left, where there is a bound.
    pub fn left(&self) -> Option<u64> {
        Some(self.quota?.saturating_sub(self.used()))
    }

    /// The bound.
    pub const fn quota(&self) -> Option<u64> {
        self.quota
    }

    /// Count a length that has changed.
    pub fn count(&self, before: u64, after: u64) {
        let add = |used: u64| used.saturating_sub(before).saturating_add(after);
        // It never fails, for it always has an answer.
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(add(used)));
    }

    /// Fails when a file may not become that much longer.
    fn check(&self, more: u64) -> Result<()> {
        match self.quota {
            Some(quota) if more > 0 && self.used().saturating_add(more) > quota => Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "the files of the datastore may hold {quota} bytes, and no more: remove some, or raise the quota"
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// A file of a client, opened.
pub struct Scratch {
    ino: u64,
    /// For messages: the name by which it was opened.
    name: Vec<u8>,
    file: File,
    /// One change at a time, so that each knows what was right before and after.
    changing: Mutex<()>,
    room: Arc<Room>,
}

impl Scratch {
    /// The file `file` with the number `ino`.
    pub const fn new(ino: u64, name: Vec<u8>, file: File, room: Arc<Room>) -> Self {
        Self { ino, name, file, changing: Mutex::new(()), room }
    }

    /// Do `change`, after which the file is `end` bytes long at least.
    fn change(&self, end: u64, change: impl FnOnce(&Stamp) -> Result<()>) -> Result<Update> {
        let _one = self.changing.lock();
        let before = Stamp::from(&self.attributes()?);
        self.room.check(end.saturating_sub(before.size))?;
        let changed = change(&before);
        // Also of a failure a part may have been done.
        let after = self.attributes()?;
        self.room.count(before.size, after.size);
        changed?;
        Ok(Update { before, after })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Ok(is) = self.attributes()
            && is.nlink == 0
        {
            self.room.count(is.size, 0);
        }
    }
}

impl Changes for Scratch {
    fn set_attributes(&self, set: &SetAttributes, expected: Option<Time>) -> Result<Option<Update>> {
        let mut asked_for = true;
        let update = self.change(set.size.unwrap_or(0), |before| {
            asked_for = expected.is_none_or(|expected| expected == before.ctime);
            if !asked_for {
                return Ok(());
            }
            if let Some(size) = set.size {
                self.file.set_len(size).or_failed("change the length of", &self.name)?;
            }
            host::set(Target::Open(&self.file.as_fd()), set, false).or_failed("change", &self.name)
        })?;
        Ok(asked_for.then_some(update))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_all().or_failed("make durable", &self.name)
    }
}

impl WritableFile for Scratch {
    fn attributes(&self) -> Result<Attributes> {
        let stat = host::stat(&self.file, None).or_failed("read the attributes of", &self.name)?;
        Ok(host::attributes(self.ino, &stat))
    }

    fn limit(&self) -> u64 {
        i64::MAX as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(host::failed("read", &self.name, e)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<Update> {
        let end = offset.checked_add(buf.len() as u64).filter(|&end| end <= self.limit());
        let end = end.ok_or_else(|| Error::invalid("no file can be that long"))?;
        self.change(end, |_| self.file.write_all_at(buf, offset).or_failed("write", &self.name))
    }
}
