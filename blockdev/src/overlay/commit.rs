//! Making writes durable, and the order in which that happens.
//!
//! 1. Take the changed L2 pages as they are now. What they say is stored has been written to the file by now.
//! 2. Sync: data and refcounts are durable.
//! 3. Write the pages as they were taken.
//! 4. For a flush, sync again.
//!
//! Threads go on writing meanwhile; what they change goes with the next turn. Flushes that wait for one in progress
//! share the next.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{Overlay, journal::Journal, pages::lock};
use crate::{Error, ErrorKind, Result};

/// Who is flushing, and whether anything needs to be.
#[derive(Default)]
pub struct Commits {
    turn: Mutex<()>,
    /// Flushes that have begun; changed only by who has the turn.
    begun: AtomicU64,
    /// The last of them that has succeeded.
    succeeded: AtomicU64,
    /// Something was written that no sync has followed. Set after writing.
    unsynced: AtomicBool,
    /// A sync has failed.
    lost: AtomicBool,
}

impl Commits {
    /// Something has been written to the file.
    pub fn written(&self) {
        self.unsynced.store(true, Ordering::Release);
    }
}

impl Overlay {
    /// Fails after a failed sync: what was written before it may be lost, also where reads still show it, and entries
    /// that point there must never become durable.
    pub(super) fn check_sound(&self) -> Result<()> {
        if self.commits.lost.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::Io,
                format!(
                    "the overlay {} has lost writes since its last flush, for its disk failed: open it again",
                    self.name
                ),
            ));
        }
        Ok(())
    }

    /// Make durable what was written before the call.
    pub(super) fn commit(&self) -> Result<()> {
        let commits = &self.commits;
        let before = commits.begun.load(Ordering::Acquire);
        let _turn = lock(&commits.turn);
        self.check_sound()?;
        if commits.succeeded.load(Ordering::Acquire) > before {
            return Ok(());
        }
        let this = commits.begun.fetch_add(1, Ordering::AcqRel) + 1;
        if commits.unsynced.swap(false, Ordering::AcqRel) || !self.pages.unchanged() {
            self.write_back().inspect_err(|_| commits.written())?;
            self.sync()?;
        }
        commits.succeeded.store(this, Ordering::Release);
        Ok(())
    }

    /// Where changed pages take too much memory, write them.
    pub(super) fn relieve(&self) -> Result<()> {
        let is_pressed = || self.pages.pressed() || self.journal.as_ref().is_some_and(Journal::pressed);
        if is_pressed() {
            let _turn = lock(&self.commits.turn);
            if is_pressed() {
                self.check_sound()?;
                self.write_back()?;
                self.commits.written();
            }
        }
        Ok(())
    }

    /// Steps 1 to 3. The caller has the turn: an older state of a page must not be written over a newer one.
    fn write_back(&self) -> Result<()> {
        let journal = self.journal.as_ref();
        journal.inspect(|journal| journal.begin());
        let changed = self.pages.take_changed();
        let mut result = if changed.is_empty() { Ok(()) } else { self.sync() };
        for (page, bytes) in changed {
            if result.is_ok() {
                let written = self.medium.write(&bytes, self.layout.page(page.number));
                result = written.map_err(|e| self.failed("write an L2 table of", e));
            }
            if result.is_err() {
                self.pages.put_back(&page);
            }
        }
        if result.is_ok() {
            journal.inspect(|journal| journal.done());
        }
        result
    }

    fn sync(&self) -> Result<()> {
        self.medium.sync().map_err(|e| {
            self.commits.lost.store(true, Ordering::Release);
            self.failed("flush", e)
        })
    }
}
