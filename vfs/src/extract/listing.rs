//! The entries of a directory, one at a time; the provider is asked for some at once.

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{Error, Result};

use crate::node::{Dir, Entry};

/// Entries taken from a provider at once.
const BATCH: usize = 256;

pub(super) struct Listing {
    dir: Arc<dyn Dir>,
    cookie: u64,
    batch: std::vec::IntoIter<Entry>,
    /// How the listing ended, once it has.
    ended: Option<Result<()>>,
}

impl Listing {
    pub(super) fn new(dir: Arc<dyn Dir>) -> Self {
        Self { dir, cookie: 0, batch: Vec::new().into_iter(), ended: None }
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Arc<dyn Dir> {
        &self.dir
    }

    /// The next entry. What a listing gave before it failed comes before the failure.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.batch.next() {
                return Ok(Some(entry));
            }
            if let Some(ended) = self.ended.take() {
                return ended.map(|()| None);
            }
            let mut batch: Vec<Entry> = Vec::new();
            let listed = self.dir.list(self.cookie, &mut |entry| {
                batch.push(entry);
                if batch.len() < BATCH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            let cookie = batch.last().map_or(self.cookie, |entry| entry.cookie);
            if listed.is_err() || batch.len() < BATCH {
                self.ended = Some(listed);
            } else if cookie == self.cookie {
                self.ended = Some(Err(Error::damaged("the listing of a directory does not advance")));
            }
            self.cookie = cookie;
            self.batch = batch.into_iter();
        }
    }
}
