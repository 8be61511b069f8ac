//! Hard links: what has an inode number that was seen before becomes another name of the same file.

use std::{collections::HashMap, sync::Arc};

use blockdev::{Error, Result};
use parking_lot::{Condvar, Mutex};
use rustix::fd::OwnedFd;

use super::target::{Place, TargetDir, descend};

/// The inodes with several names that were met.
pub(super) struct Links {
    top: OwnedFd,
    table: Mutex<HashMap<u64, State>>,
    settled: Condvar,
}

enum State {
    /// A worker is writing it.
    Writing,
    /// It is there, under this name first.
    There(Arc<Place>),
    /// It could not be written.
    Failed,
}

/// What to do with a name.
pub(super) enum Claim<'l> {
    /// It is the first: write the file, then say so.
    Write(First<'l>),
    /// Link it with what is there.
    Link(Arc<Place>),
    /// The file could not be written.
    Failed,
}

/// The duty to say what became of the first name; without a word it has failed.
pub(super) struct First<'l> {
    links: &'l Links,
    ino: u64,
    place: Option<Arc<Place>>,
}

impl First<'_> {
    /// The file is there.
    pub(super) fn written(mut self, place: Arc<Place>) {
        self.place = Some(place);
    }
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        let state = self.place.take().map_or(State::Failed, State::There);
        self.links.table.lock().insert(self.ino, state);
        self.links.settled.notify_all();
    }
}

impl Links {
    pub(super) fn new(top: &TargetDir<'_>) -> Result<Self> {
        Ok(Self { top: top.duplicate()?, table: Mutex::default(), settled: Condvar::new() })
    }

    /// One more name of the inode `ino` was met. While another worker writes the first one this waits: that worker
    /// itself waits for nobody who could wait here.
    pub(super) fn claim(&self, ino: u64) -> Claim<'_> {
        let mut table = self.table.lock();
        loop {
            match table.get(&ino) {
                None => {
                    table.insert(ino, State::Writing);
                    return Claim::Write(First { links: self, ino, place: None });
                }
                Some(State::Writing) => self.settled.wait(&mut table),
                Some(State::There(place)) => return Claim::Link(place.clone()),
                Some(State::Failed) => return Claim::Failed,
            }
        }
    }

    /// Make `name` in `dir` another name of what is at `place`.
    pub(super) fn link(&self, place: &Place, dir: &TargetDir<'_>, name: &[u8]) -> Result<()> {
        let names = place.names();
        let Some((last, way)) = names.split_last() else { return Err(Error::invalid("not a file")) };
        dir.link(name, &descend(&self.top, way)?, last)
    }
}
