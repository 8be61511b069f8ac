//! Pages of the L2 tables in memory: bounded, shared by all threads, and written back only by [`commit`](super::commit).
//!
//! A page that someone holds, or that differs from the file, is never dropped: whoever changes a page holds it, and
//! the list of changed pages holds them too, so "held by the store alone" means "may be dropped".

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{
    journal::Journal,
    layout::{Entry, PAGE},
};
use crate::Result;

/// Independent parts of the store, so that threads seldom meet.
const SHARDS: usize = 16;

/// Bytes of a page in memory, with what is around it.
const PAGE_WEIGHT: u64 = PAGE + 256;

/// A page of L2 entries.
pub struct Page {
    /// Its number: [`Layout::page`](super::layout::Layout::page) says where it lies.
    pub number: u64,
    /// Held by whoever makes subclusters stored or zero, from before the data is written until the entries say so.
    /// Nobody else needs it: a place in the file, once given to a cluster, stays its place.
    changing: Mutex<()>,
    /// Empty until loaded.
    entries: RwLock<Vec<Entry>>,
    /// It is in the list of changed pages. Changed only under the lock of `entries`.
    changed: AtomicBool,
    /// The file has room for it.
    has_room: AtomicBool,
    /// Used since the store last looked for something to drop.
    used: AtomicBool,
}

impl Page {
    /// Fill it by `load`, unless it is filled.
    ///
    /// # Errors
    ///
    /// What `load` fails with; the next caller tries again.
    pub fn fill(&self, load: impl FnOnce() -> Result<Vec<Entry>>) -> Result<()> {
        if !self.entries.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Ok(());
        }
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.is_empty() {
            let loaded = load()?;
            self.has_room.store(loaded.iter().any(|e| *e != Entry::default()), Ordering::Relaxed);
            *entries = loaded;
        }
        Ok(())
    }

    /// What `look` sees in the entries.
    pub fn look<R>(&self, look: impl FnOnce(&[Entry]) -> R) -> R {
        look(&self.entries.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keep others from making subclusters stored or zero.
    pub fn change(&self) -> MutexGuard<'_, ()> {
        lock(&self.changing)
    }

    /// Whether the file is known to have room for the page.
    pub fn has_room(&self) -> bool {
        self.has_room.load(Ordering::Relaxed)
    }

    /// The file has room for the page.
    pub fn set_has_room(&self) {
        self.has_room.store(true, Ordering::Relaxed);
    }
}

/// The pages in memory.
pub struct Pages {
    shards: Vec<Mutex<Shard>>,
    /// Pages that each shard keeps if it can.
    shard_max: usize,
    /// Changed pages that are too many.
    changed_max: usize,
    changed: Mutex<Vec<Arc<Page>>>,
    changed_count: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    pages: HashMap<u64, Arc<Page>>,
    /// The keys, in the order in which they are tried when something is to be dropped.
    clock: VecDeque<u64>,
}

impl Pages {
    /// A store of at most about `bytes_max` bytes; half of it may be changed pages.
    pub fn new(bytes_max: u64) -> Self {
        let pages = usize::try_from(bytes_max / PAGE_WEIGHT).unwrap_or(usize::MAX).max(2 * SHARDS);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            shard_max: pages / SHARDS,
            changed_max: pages / 2,
            changed: Mutex::default(),
            changed_count: AtomicUsize::new(0),
        }
    }

    /// Page `number`, perhaps not filled yet.
    pub fn get(&self, number: u64) -> Arc<Page> {
        let Some(shard) = self.shards.get((number % SHARDS as u64) as usize) else { return new_page(number) };
        let mut shard = lock(shard);
        if let Some(page) = shard.pages.get(&number) {
            page.used.store(true, Ordering::Relaxed);
            return Arc::clone(page);
        }
        let page = new_page(number);
        shard.make_room(self.shard_max);
        shard.pages.insert(number, Arc::clone(&page));
        shard.clock.push_back(number);
        page
    }

    /// Change entries of `page`.
    pub fn update(&self, page: &Arc<Page>, change: impl FnOnce(&mut [Entry])) {
        let mut entries = page.entries.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut entries);
        if !page.changed.swap(true, Ordering::Relaxed) {
            self.push_changed(page);
        }
    }

    /// Change entries of `page`, once `journal` has the change.
    ///
    /// # Errors
    ///
    /// When the journal has no room; nothing has changed then.
    pub fn update_noted(
        &self,
        page: &Arc<Page>,
        journal: Option<&Journal>,
        change: impl FnOnce(&mut [Entry]),
    ) -> io::Result<()> {
        let _gate = journal.map(Journal::hold);
        let mut entries = page.entries.write().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = entries.clone();
        change(&mut fresh);
        if let Some(journal) = journal {
            journal.append(page.number, &entries, &fresh)?;
        }
        *entries = fresh;
        if !page.changed.swap(true, Ordering::Relaxed) {
            self.push_changed(page);
        }
        Ok(())
    }

    /// Whether so much is changed that it has to be written.
    pub fn pressed(&self) -> bool {
        self.changed_count.load(Ordering::Relaxed) >= self.changed_max
    }

    /// Whether nothing is changed.
    pub fn unchanged(&self) -> bool {
        self.changed_count.load(Ordering::Acquire) == 0
    }

    /// All changed pages, which count as unchanged from now on, and their bytes; in the order of the file.
    pub fn take_changed(&self) -> Vec<(Arc<Page>, Vec<u8>)> {
        let mut taken = std::mem::take(&mut *lock(&self.changed));
        self.changed_count.fetch_sub(taken.len(), Ordering::AcqRel);
        taken.sort_unstable_by_key(|page| page.number);
        let bytes = |page: Arc<Page>| {
            let entries = page.entries.write().unwrap_or_else(PoisonError::into_inner);
            page.changed.store(false, Ordering::Relaxed);
            let bytes = entries.iter().flat_map(|e| e.encode()).collect();
            drop(entries);
            (page, bytes)
        };
        taken.into_iter().map(bytes).collect()
    }

    /// `page` could not be written after all.
    pub fn put_back(&self, page: &Arc<Page>) {
        let _entries = page.entries.write().unwrap_or_else(PoisonError::into_inner);
        if !page.changed.swap(true, Ordering::Relaxed) {
            self.push_changed(page);
        }
    }

    fn push_changed(&self, page: &Arc<Page>) {
        let mut changed = lock(&self.changed);
        changed.push(Arc::clone(page));
        self.changed_count.fetch_add(1, Ordering::AcqRel);
    }
}

impl Shard {
    /// Drop pages that nobody holds, those not used of late first, until there is room for one more.
    fn make_room(&mut self, max: usize) {
        // Twice around: the first time takes away the mark of use.
        let mut tries = 2 * self.clock.len();
        while self.pages.len() >= max && tries > 0 {
            tries -= 1;
            let Some(number) = self.clock.pop_front() else { return };
            let Some(page) = self.pages.get(&number) else { continue };
            if Arc::strong_count(page) > 1 || page.used.swap(false, Ordering::Relaxed) {
                self.clock.push_back(number);
            } else {
                self.pages.remove(&number);
            }
        }
    }
}

fn new_page(number: u64) -> Arc<Page> {
    Arc::new(Page {
        number,
        changing: Mutex::new(()),
        entries: RwLock::default(),
        changed: AtomicBool::new(false),
        has_room: AtomicBool::new(false),
        used: AtomicBool::new(true),
    })
}

/// Nothing panics while it holds a lock here; were it so, the data behind it would still be whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
