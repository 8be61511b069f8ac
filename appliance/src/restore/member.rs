//! Files while they are written into the tree. Of one of a disk's chain the tables are kept in the host's file, and the data
//! goes into the disk; all others are ordinary files.

use std::sync::Arc;

use blockdev::{
    Error, Result,
    images::qcow2::arriving::{Arriving, DiskMap, Receiver, Tables},
};
use parking_lot::Mutex;
use vfs::node::{Attributes, Changes, OpenFile, SetAttributes, Time, Update, WritableFile};

use super::incoming::Incoming;

/// A file of a disk's chain.
pub struct Member {
    name: String,
    /// The disk that it is of.
    pub disk: String,
    /// The number of its point.
    pub number: u64,
    file: OpenFile,
    coming: Mutex<Arriving>,
    restore: Arc<Incoming>,
}

/// The tables in the host's file.
struct InFile(OpenFile);

impl Tables for InFile {
    fn put(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.0.write_at(bytes, offset).map(drop)
    }

    fn get(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let n = self.0.read_at(buf, offset)?;
        buf.get_mut(n..).unwrap_or_default().fill(0);
        Ok(())
    }
}

/// Who takes what nobody wants.
struct Nobody;

impl Receiver for Nobody {
    fn mapped(&mut self, _: &Arc<DiskMap>) -> Result<()> {
        Ok(())
    }

    fn data(&mut self, _: &[u8], _: u64) -> Result<()> {
        Ok(())
    }

    fn zeros(&mut self, _: std::ops::Range<u64>) -> Result<()> {
        Ok(())
    }
}

impl Member {
    pub fn new(name: &str, (disk, number): (&str, u64), file: OpenFile, restore: Arc<Incoming>) -> Self {
        let coming = Mutex::new(Arriving::new(Arc::new(InFile(Arc::clone(&file)))));
        Self { name: name.to_owned(), disk: disk.to_owned(), number, file, coming, restore }
    }

    /// The number of the host's file.
    pub fn ino(&self) -> Result<u64> {
        self.file.attributes().map(|attributes| attributes.ino)
    }

    /// Whether all of it has come.
    pub fn is_whole(&self) -> bool {
        self.coming.lock().is_whole()
    }

    /// What it is, once that has come.
    pub fn map(&self) -> Option<Arc<DiskMap>> {
        self.coming.lock().map().cloned()
    }

    /// As if nothing of it had come.
    pub fn begin_again(&self) {
        *self.coming.lock() = Arriving::new(Arc::new(InFile(Arc::clone(&self.file))));
    }
}

impl Changes for Member {
    fn set_attributes(&self, set: &SetAttributes, expected: Option<Time>) -> Result<Option<Update>> {
        if set.size.is_some_and(|size| size > 0) {
            return Err(Error::unsupported("a file that is restored is written from its start to its end"));
        }
        self.file.set_attributes(set, expected)
    }

    fn sync(&self) -> Result<()> {
        // The disk is made durable when it is complete.
        Ok(())
    }
}

impl WritableFile for Member {
    fn attributes(&self) -> Result<Attributes> {
        self.file.attributes()
    }

    fn limit(&self) -> u64 {
        self.file.limit()
    }

    fn read_at(&self, _buf: &mut [u8], _offset: u64) -> Result<usize> {
        Err(Error::unsupported("what is restored here went into a disk, and cannot be read as a file"))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<Update> {
        self.restore.writing(&self.name, offset)?;
        let into = self.restore.disk(&self.disk)?;
        let mut coming = self.coming.lock();
        let taken = match into {
            Some(disk) => coming.take(buf, offset, &mut disk.lock().receiving(self.number)),
            None => coming.take(buf, offset, &mut Nobody),
        };
        drop(coming);
        taken.inspect_err(|e| self.restore.failing(e))?;
        // Its length is that of what has come, as of any file.
        let end = offset.saturating_add(buf.len() as u64);
        let size = self.file.attributes()?.size.max(end);
        let told = self.file.set_attributes(&SetAttributes { size: Some(size), ..SetAttributes::default() }, None)?;
        told.ok_or_else(|| Error::invalid("the file was changed by somebody else"))
    }
}

/// Any other file.
pub struct Other {
    name: String,
    file: OpenFile,
    restore: Arc<Incoming>,
}

impl Other {
    pub fn new(name: &str, file: OpenFile, restore: Arc<Incoming>) -> Self {
        Self { name: name.to_owned(), file, restore }
    }
}

impl Changes for Other {
    fn set_attributes(&self, set: &SetAttributes, expected: Option<Time>) -> Result<Option<Update>> {
        self.file.set_attributes(set, expected)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

impl WritableFile for Other {
    fn attributes(&self) -> Result<Attributes> {
        self.file.attributes()
    }

    fn limit(&self) -> u64 {
        self.file.limit()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<Update> {
        self.restore.writing(&self.name, offset)?;
        self.file.write_at(buf, offset)
    }
}
