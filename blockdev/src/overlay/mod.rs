//! Copy-on-write over a disk that cannot change: what makes a disk in a backup writable for a recovery.
//!
//! An [`Overlay`] takes writes for any [`BlockDevice`] and keeps them in one plain qcow2 version 3 file. While it is not
//! in use, QEMU opens and checks that file; with a [`Backing`] recorded, over the base exported as a raw file, it is the
//! whole disk. Only files that were made here are opened again; [`images`](crate::images) reads any other qcow2.
//!
//! # Small writes
//!
//! A guest writes 4 KiB here and there. Into clusters of 64 KiB, QEMU's default, each first one drags 60 KiB out of the
//! base, which may be a compressed backup on slow storage, and writes them. Clusters of 4 KiB need no copy, but an L2
//! table entry of 8 bytes for each: 2 GiB of tables for 1 TiB. Extended L2 entries (QEMU 5.2) split a cluster into 32
//! subclusters which are present or not by themselves. With clusters of 128 KiB a subcluster has 4 KiB: a write of the
//! size that filesystems use copies nothing, a sequential one needs an entry of 16 bytes for 128 KiB, and 1 TiB has
//! 128 MiB of tables. A cluster that is present in part is mostly a hole in the file.
//!
//! # What survives
//!
//! *An acknowledged flush survives `kill -9` and the loss of power; and at every moment the file holds, for each byte,
//! what the last flush made durable or something written since; never anything else.* Five rules give that:
//!
//! * All tables have fixed places and are complete from the start (`layout`), so nothing ever points to a table that
//!   is not there.
//! * A cluster of the disk keeps its place for good (`space`), so no place is ever reused.
//! * A subcluster is marked as stored after all of it is written (`write`), and the mark becomes durable after what it
//!   marks (`commit`): sync, write L2 entries, sync. An entry lies within a sector and says nothing about others, so
//!   it does not matter which of them become durable.
//! * Refcounts are written ahead of need and become durable by the same first sync, before any entry that needs them.
//!   They are never too low, so a crash leaks clusters and does nothing worse: no refcount has to be rebuilt. The dirty
//!   bit of the header is set meanwhile, so that QEMU and the next [`open`](Overlay::open) take back what has leaked.
//!   (Lazy refcounts, the alternative, would save one write in 256 and make `qemu-img check` report errors after a
//!   crash.)
//! * After a failed sync nobody knows what is durable, so nothing more is written (`commit`).
//!
//! *Every acknowledged write survives `kill -9`*, flushed or not, when the overlay is opened again while the same kernel
//! runs: a guest that runs on has no reason to write it again (`journal`).
//!
//! # Room
//!
//! A write that finds no room (disk full, quota) fails with [`NoSpace`](crate::ErrorKind::NoSpace), and what was there
//! stays; it can be tried again later. Room for the L2 page is asked for by the first write that needs it, so that a
//! flush does not have to.

mod alone;
mod commit;
mod header;
mod journal;
mod layout;
mod medium;
mod pages;
mod read;
mod space;
mod write;

use std::{fs::File, io, path::Path, sync::Arc};

use self::{
    commit::Commits,
    header::Header,
    journal::Journal,
    layout::{CLUSTER, ENTRY, Entry, Layout, PAGE, PAGE_SPAN},
    pages::{Page, Pages},
    space::Space,
};
pub use self::{
    header::Backing,
    medium::{HostMedium, Medium},
};
use crate::{BlockDevice, Error, Result};

/// Memory for L2 tables where nothing else is said: enough for 240 GiB of disk in use at once.
const MEMORY: u64 = 32 << 20;

/// How an overlay is made or opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// What stands for exactly this base and no other: the job and file it is, a digest. At most 1023 bytes. An overlay
    /// is opened only over a base of the identity and size that it was made for.
    pub base_identity: String,
    /// Where QEMU finds the base when it opens the file; only for [`create`](Overlay::create). `None`: nowhere, and QEMU
    /// sees zeros where nothing was written.
    pub backing: Option<Backing>,
    /// Bytes of its filesystem that the overlay may take; `None`: as many as there are.
    pub quota: Option<u64>,
    /// Bytes of memory for L2 tables: 4 KiB stand for 32 MiB of disk. While a flush is written, it is half as much again.
    pub memory: u64,
}

impl Options {
    /// For the base of this identity; no backing file recorded, no quota, 32 MiB of memory.
    #[must_use]
    pub fn new(base_identity: impl Into<String>) -> Self {
        Self { base_identity: base_identity.into(), backing: None, quota: None, memory: MEMORY }
    }
}

/// A writable disk: a base that does not change, and a qcow2 file that holds what was written since.
///
/// Dropping it closes it as [`close`](Self::close) does, but cannot tell an error.
pub struct Overlay {
    base: Arc<dyn BlockDevice>,
    medium: Box<dyn Medium>,
    /// For messages.
    name: String,
    size: u64,
    layout: Layout,
    pages: Pages,
    space: Space,
    commits: Commits,
    /// For one that is in a file of the host.
    journal: Option<Journal>,
    closed: bool,
}

impl Overlay {
    /// Make the file `path`, which must not exist, an overlay over `base`.
    ///
    /// # Errors
    ///
    /// `Invalid` when the file exists or a text in `options` is too long, `NoSpace`, `Io`.
    pub fn create(path: &Path, base: Arc<dyn BlockDevice>, options: &Options) -> Result<Self> {
        let medium = HostMedium::create(path)?;
        let made = Self::create_on(Box::new(medium), path.display().to_string(), base, options);
        let made = made.and_then(|overlay| overlay.noted_at(path));
        let synced = made.and_then(|overlay| match sync_folder_of(path) {
            Ok(()) => Ok(overlay),
            Err(e) => Err(Error::io(format!("cannot make the overlay {} durable", path.display()), e)),
        });
        if synced.is_err() {
            // It exists by our doing only, and holds nothing.
            let _ = std::fs::remove_file(path);
        }
        synced
    }

    /// Open the overlay at `path` over `base`, after a crash too.
    ///
    /// # Errors
    ///
    /// `Invalid` when it was made over another base, `Locked` when another process has it open, `Unsupported` when it
    /// is not an overlay or was rearranged by another program, `Damaged` when it contradicts itself.
    pub fn open(path: &Path, base: Arc<dyn BlockDevice>, options: &Options) -> Result<Self> {
        let medium = HostMedium::open(path)?;
        match (medium.file(), Header::read(&medium)) {
            (Some(file), Ok((header, layout))) if header.dirty => journal::replay(path, file, &medium, &layout)?,
            _ => {}
        }
        Self::open_on(Box::new(medium), path.display().to_string(), base, options)?.noted_at(path)
    }

    /// What is written from now on is noted beside it, at `path`.
    fn noted_at(mut self, path: &Path) -> Result<Self> {
        self.journal = self.medium.file().map(|file| Journal::create(path, file)).transpose()?;
        Ok(self)
    }

    /// As [`create`](Self::create), on an empty `medium`. `name` is for messages.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_on(
        medium: Box<dyn Medium>,
        name: String,
        base: Arc<dyn BlockDevice>,
        options: &Options,
    ) -> Result<Self> {
        let layout = Layout::new(base.size())?;
        let failed = |e| Error::io(format!("cannot make the overlay {name}"), e);
        if medium.size().map_err(failed)? != 0 {
            return Err(Error::invalid(format!("{name} is not empty: an overlay would destroy what it holds")));
        }
        let header = Header {
            base_size: base.size(),
            base_identity: options.base_identity.clone(),
            backing: options.backing.clone(),
            dirty: false,
        };
        let header = header.encode(&layout)?;
        medium.set_len(layout.data).map_err(failed)?;
        medium.write(&layout.l1_table(), layout.l1).map_err(failed)?;
        medium.write(&layout.refcounts_table(), layout.refcount_table).map_err(failed)?;
        space::write_refcounts(medium.as_ref(), &layout, 0, layout.data, 1).map_err(|e| e.context(&name))?;
        medium.sync().map_err(failed)?;
        // Without the header it is no overlay, so it is complete when it is one.
        medium.write(&header, 0).map_err(failed)?;
        medium.sync().map_err(failed)?;
        Self::new(medium, name, base, layout, layout.data, false, options)
    }

    /// As [`open`](Self::open), on `medium`. `name` is for messages.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_on(
        medium: Box<dyn Medium>,
        name: String,
        base: Arc<dyn BlockDevice>,
        options: &Options,
    ) -> Result<Self> {
        let (header, layout) = Header::read(medium.as_ref()).map_err(|e| e.context(&name))?;
        if header.base_size != base.size() || header.base_identity != options.base_identity {
            return Err(Error::invalid(format!(
                "the overlay {name} was made over {:?} of {} bytes, not over {:?} of {} bytes: give it that base",
                header.base_identity,
                header.base_size,
                options.base_identity,
                base.size()
            )));
        }
        check_table(medium.as_ref(), &name, layout.l1, &layout.l1_table())?;
        check_table(medium.as_ref(), &name, layout.refcount_table, &layout.refcounts_table())?;
        let len = medium.size().map_err(|e| Error::io(format!("cannot read the overlay {name}"), e))?;
        if len < layout.data {
            return Err(Error::damaged(format!(
                "the overlay {name} was cut off at byte {len}: its tables are missing"
            )));
        }
        let mut end = len.next_multiple_of(CLUSTER).min(layout.end_max());
        if header.dirty {
            end = used_end(medium.as_ref(), &layout, end).map_err(|e| e.context(&name))?;
            Space::repair(&layout, medium.as_ref(), end).map_err(|e| e.context(&name))?;
        }
        Self::new(medium, name, base, layout, end, header.dirty, options)
    }

    fn new(
        medium: Box<dyn Medium>,
        name: String,
        base: Arc<dyn BlockDevice>,
        layout: Layout,
        end: u64,
        dirty: bool,
        options: &Options,
    ) -> Result<Self> {
        let space = Space::new(layout, medium.as_ref(), end, dirty, options.quota).map_err(|e| e.context(&name))?;
        Ok(Self {
            size: base.size(),
            base,
            medium,
            name,
            layout,
            pages: Pages::new(options.memory),
            space,
            commits: Commits::default(),
            journal: None,
            closed: false,
        })
    }

    /// Bytes that it takes, as the quota counts them.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.space.used()
    }

    /// Whether the quota had no room for what was last written.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.space.is_full()
    }

    /// From now on it may take `quota` bytes of its filesystem; `None`: as many as there are. What it takes already stays.
    pub fn set_quota(&self, quota: Option<u64>) {
        self.space.set_quota(quota);
    }

    /// Flush, give back what was kept ready for more writes, and end the use of the file.
    ///
    /// # Errors
    ///
    /// When the medium fails. What was flushed before is safe.
    pub fn close(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        self.commit()?;
        self.space.close(self.medium.as_ref()).map_err(|e| e.context(&self.name))?;
        self.journal.take().inspect(Journal::remove);
        Ok(())
    }

    /// Page `number` of the L2 tables, filled.
    fn page(&self, number: u64) -> Result<Arc<Page>> {
        let page = self.pages.get(number);
        page.fill(|| {
            read_page(self.medium.as_ref(), &self.layout, number, self.space.end()).map_err(|e| e.context(&self.name))
        })?;
        Ok(page)
    }

    fn failed(&self, what: &str, error: io::Error) -> Error {
        Error::io(format!("cannot {what} the overlay {}", self.name), error)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // The file is then as after a crash, which `open` takes care of.
        let _ = self.finish();
    }
}

/// Page `number`, whose entries must point to data before `end`.
fn read_page(medium: &dyn Medium, layout: &Layout, number: u64, end: u64) -> Result<Vec<Entry>> {
    let mut bytes = [0; PAGE as usize];
    let at = layout.page(number);
    medium.read(&mut bytes, at).map_err(|e| Error::io(format!("cannot read an L2 table at byte {at}"), e))?;
    let entry = |(i, bytes): (u64, &[u8; ENTRY as usize])| {
        Entry::decode(*bytes, layout.data, end).map_err(|what| {
            let offset = number * PAGE_SPAN + i * CLUSTER;
            Error::damaged(format!("the cluster at byte {offset} of the disk {what} (L2 table at byte {at})"))
        })
    };
    (0..).zip(bytes.as_chunks().0).map(entry).collect()
}

/// The end of the last cluster that an L2 table points to.
fn used_end(medium: &dyn Medium, layout: &Layout, end: u64) -> Result<u64> {
    let mut used = layout.data;
    let mut number = 0;
    loop {
        let next = medium.next_data(layout.page(number)).map_err(|e| Error::io("cannot read the L2 tables", e))?;
        let Some(data) = next.filter(|data| *data < layout.data) else { return Ok(used) };
        number = number.max(data.saturating_sub(layout.l2) / PAGE);
        let entries = read_page(medium, layout, number, end)?;
        used = entries.iter().filter(|e| e.host != 0).map(|e| e.host + CLUSTER).fold(used, u64::max);
        number += 1;
    }
}

/// The table at `at` must be `expected`: another program may have moved what it points to.
fn check_table(medium: &dyn Medium, name: &str, at: u64, expected: &[u8]) -> Result<()> {
    let mut bytes = vec![0; expected.len()];
    medium.read(&mut bytes, at).map_err(|e| Error::io(format!("cannot read the overlay {name}"), e))?;
    if bytes != expected {
        return Err(Error::damaged(format!(
            "the overlay {name} has a table at byte {at} that is damaged, or that another program has changed: \
             check it with qemu-img"
        )));
    }
    Ok(())
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
