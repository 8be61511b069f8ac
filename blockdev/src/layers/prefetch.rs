//! What a machine will read to start, read before it asks: its disk is in a backup on slow storage, and each of its reads
//! would wait for it.
//!
//! Threads read what a [`Trace`] says, in its order; a few MiB of it at a time are sorted by their place, so that
//! neighbours are one read. What was read is kept in bounded memory until it has been asked for. A read of what is just
//! being fetched waits for that instead of fetching it again. Nothing depends on the trace: what it does not have is read
//! as ever, and what could not be read ahead is read again, with its error, by who wants it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    trace::{GRANULE, Trace},
    within,
};
use crate::{BlockDevice, BlockSizes, Error, Extent, MappedRun, ReadAt, Result, origin::Origin};

/// Granules of the trace that are sorted at a time: 16 MiB.
const WINDOW: usize = 256;
/// Granules that are read at once: 1 MiB.
const BATCH: u32 = 16;
/// So many granules between two that are wanted are read along: less than another read costs on slow storage.
const GAP: u32 = 1;
/// How long the rest of a granule is kept after some of it was asked for, when there is no room.
const LINGER: Duration = Duration::from_secs(1);

/// How to read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes that are kept until they are asked for; at least 1 MiB.
    pub memory: u64,
    /// Threads.
    pub threads: usize,
    /// Bytes a second; `None`: as fast as the device is.
    pub rate: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory: 256 << 20, threads: 2, rate: None }
    }
}

/// A device of which some is read ahead. Dropping it ends the threads.
pub struct Prefetched<D: BlockDevice + 'static> {
    shared: Arc<Shared<D>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<D> {
    device: D,
    memory: u64,
    rate: Option<u64>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What is still to be fetched, in order.
    batches: VecDeque<Range<u32>>,
    /// The granules of those.
    planned: HashSet<u32>,
    slots: HashMap<u32, Slot>,
    /// Granules in memory, the oldest first.
    kept: VecDeque<u32>,
    /// Bytes in memory.
    held: u64,
    fetched: u64,
    used: u64,
    cancelled: bool,
}

enum Slot {
    Fetching,
    Ready {
        bytes: Arc<[u8]>,
        /// Bytes that were asked for.
        used: u64,
        /// When they were last asked for.
        touched: Option<Instant>,
    },
}

/// What a read finds at a granule.
enum Found {
    Kept(Arc<[u8]>),
    /// So many granules from here on are planned, and are now this read's to fetch.
    Mine(u32),
    /// So many granules from here on are not planned.
    Unknown(u32),
}

impl<D: BlockDevice + 'static> Prefetched<D> {
    /// `device`, of which what `trace` says is read ahead from now on.
    ///
    /// # Errors
    ///
    /// `Invalid` when the trace is of a disk of another size; `Io` when the system refuses threads.
    pub fn new(device: D, trace: &Trace, options: &Options) -> Result<Self> {
        if trace.size() != device.size() {
            let (traced, size) = (trace.size(), device.size());
            return Err(Error::invalid(format!("the boot trace is of a disk of {traced} bytes, this one has {size}")));
        }
        let batches = batches(trace);
        let state = State { planned: batches.iter().cloned().flatten().collect(), batches, ..State::default() };
        let memory = options.memory.max(u64::from(BATCH) * GRANULE);
        let shared =
            Arc::new(Shared { device, memory, rate: options.rate, state: Mutex::new(state), changed: Condvar::new() });
        let mut prefetched = Self { shared, threads: Vec::new() };
        for _ in 0..options.threads.clamp(1, 16) {
            let shared = Arc::clone(&prefetched.shared);
            let spawned = thread::Builder::new().name("prefetch".into()).spawn(move || shared.run());
            // Those that run are ended by dropping.
            prefetched.threads.push(spawned.map_err(|e| Error::io("cannot start a thread that reads ahead", e))?);
        }
        Ok(prefetched)
    }

    /// Read no further ahead. What is in memory stays of use.
    pub fn cancel(&self) {
        let mut state = self.shared.lock();
        state.cancelled = true;
        state.batches.clear();
        state.planned.clear();
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Bytes that were read ahead, and of those the ones that were asked for here: what lies in a file of the host is kept
    /// by its page cache, and who asks there is not counted.
    #[must_use]
    pub fn figures(&self) -> (u64, u64) {
        let state = self.shared.lock();
        (state.fetched, state.used)
    }
}

impl<D: BlockDevice + 'static> Drop for Prefetched<D> {
    fn drop(&mut self) {
        self.cancel();
        for thread in self.threads.drain(..) {
            // One that panicked reads no more, which is what is wanted.
            let _ = thread.join();
        }
    }
}

/// The reads for a trace: windows in its order, each sorted by place, neighbours together.
fn batches(trace: &Trace) -> VecDeque<Range<u32>> {
    let granules: Vec<u32> = trace.runs().iter().cloned().flatten().collect();
    let (mut batches, mut taken) = (VecDeque::new(), HashSet::new());
    for window in granules.chunks(WINDOW) {
        let mut window = window.to_vec();
        window.sort_unstable();
        let mut open: Option<Range<u32>> = None;
        for granule in window {
            if taken.contains(&granule) {
                continue;
            }
            open = match open {
                Some(batch) if granule - batch.end <= GAP && granule - batch.start < BATCH => {
                    // What is read along is taken, too, unless it was before.
                    if (batch.end..granule).any(|g| taken.contains(&g)) {
                        batches.push_back(batch);
                        Some(granule..granule + 1)
                    } else {
                        taken.extend(batch.end..=granule);
                        Some(batch.start..granule + 1)
                    }
                }
                other => {
                    batches.extend(other);
                    Some(granule..granule + 1)
                }
            };
            taken.insert(granule);
        }
        batches.extend(open);
    }
    batches
}

impl<D: BlockDevice> Shared<D> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of granules.
    fn range(&self, granules: &Range<u32>) -> Range<u64> {
        let size = self.device.size();
        (u64::from(granules.start) * GRANULE).min(size)..(u64::from(granules.end) * GRANULE).min(size)
    }

    /// A thread's life.
    fn run(&self) {
        let begun = Instant::now();
        while let Some(batch) = self.next() {
            // A failure is told to who wants these bytes.
            let range = self.range(&batch);
            let _ = self.fetch(&batch, range.end - range.start);
            if let Some(rate) = self.rate.filter(|rate| *rate > 0) {
                let fetched = self.lock().fetched;
                let due = Duration::from_secs_f64(fetched as f64 / rate as f64);
                self.sleep(due.saturating_sub(begun.elapsed()));
            }
        }
    }

    fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        while !state.cancelled {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The next granules to fetch, when there is room for them.
    fn next(&self) -> Option<Range<u32>> {
        let mut state = self.lock();
        loop {
            let batch = state.batches.front()?.clone();
            let range = self.range(&batch);
            if !state.make_room(range.end - range.start, self.memory) {
                state = self.changed.wait_timeout(state, LINGER).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            state.batches.pop_front();
            // What was asked for meanwhile is there or on its way.
            let Some(start) = batch.clone().find(|g| state.planned.contains(g)) else { continue };
            let end = (start..batch.end).find(|g| !state.planned.contains(g)).unwrap_or(batch.end);
            if end < batch.end {
                state.batches.push_front(end..batch.end);
            }
            state.take(&(start..end));
            // The room is taken from now on: others look for some, too.
            let range = self.range(&(start..end));
            state.held += range.end - range.start;
            return Some(start..end);
        }
    }

    /// Reads granules that are marked as being fetched, and keeps them; `reserved` bytes of room were taken for them.
    fn fetch(&self, granules: &Range<u32>, reserved: u64) -> Result<()> {
        let range = self.range(granules);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = self.device.read_at(&mut bytes, range.start);
        // What lies in a file of the host is in its page cache now.
        let is_elsewhere = self.device.map(range.start, 1).is_some();
        let mut state = self.lock();
        state.held -= reserved;
        let whole = matches!(read, Ok(n) if n == bytes.len());
        for (granule, part) in granules.clone().zip(bytes.chunks(GRANULE as usize)) {
            state.slots.remove(&granule);
            if whole {
                state.fetched += part.len() as u64;
            }
            if whole && !is_elsewhere && !state.cancelled {
                state.held += part.len() as u64;
                state.kept.push_back(granule);
                state.slots.insert(granule, Slot::Ready { bytes: part.into(), used: 0, touched: None });
            }
        }
        drop(state);
        self.changed.notify_all();
        read.map(drop)
    }

    /// What a read finds at `granule`; it looks no further than `end`.
    fn find(&self, granule: u32, end: u32, len: u64) -> Found {
        let mut state = self.lock();
        loop {
            match state.slots.get_mut(&granule) {
                Some(Slot::Ready { bytes, used, touched }) => {
                    let bytes = Arc::clone(bytes);
                    *used += len;
                    *touched = Some(Instant::now());
                    state.used += len;
                    state.drop_used(granule);
                    drop(state);
                    self.changed.notify_all();
                    return Found::Kept(bytes);
                }
                Some(Slot::Fetching) => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                None => break,
            }
        }
        let is_planned = state.planned.contains(&granule);
        let same = |g: &u32| state.planned.contains(g) == is_planned && !state.slots.contains_key(g);
        let count = (granule..end).take(if is_planned { BATCH as usize } else { usize::MAX }).take_while(same).count();
        let count = u32::try_from(count).unwrap_or(1).max(1);
        if is_planned {
            state.take(&(granule..granule + count));
            Found::Mine(count)
        } else {
            Found::Unknown(count)
        }
    }
}

impl State {
    /// Marks granules as being fetched.
    fn take(&mut self, granules: &Range<u32>) {
        for granule in granules.clone() {
            self.planned.remove(&granule);
            self.slots.insert(granule, Slot::Fetching);
        }
    }

    /// Gives up what was asked for some time ago, the oldest first, until `bytes` more can be kept; whether they can.
    fn make_room(&mut self, bytes: u64, memory: u64) -> bool {
        let mut at = 0;
        while self.held + bytes > memory {
            let Some(granule) = self.kept.get(at).copied() else { return false };
            match self.slots.get(&granule) {
                Some(Slot::Ready { bytes, touched: Some(touched), .. }) if touched.elapsed() >= LINGER => {
                    self.held -= bytes.len() as u64;
                    self.slots.remove(&granule);
                    self.kept.remove(at);
                }
                Some(Slot::Ready { .. }) => at += 1,
                _ => _ = self.kept.remove(at),
            }
        }
        true
    }

    /// Gives up a granule that was asked for as a whole.
    fn drop_used(&mut self, granule: u32) {
        if let Some(Slot::Ready { bytes, used, .. }) = self.slots.get(&granule)
            && *used >= bytes.len() as u64
        {
            self.held -= bytes.len() as u64;
            self.slots.remove(&granule);
        }
    }
}

impl<D: BlockDevice> ReadAt for Prefetched<D> {
    fn size(&self) -> u64 {
        self.shared.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let shared = &self.shared;
        let wanted = within(buf.len(), offset, self.size());
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..wanted).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let (Ok(granule), Ok(end)) =
                (u32::try_from(at / GRANULE), u32::try_from((at + rest.len() as u64).div_ceil(GRANULE)))
            else {
                // No trace reaches so far.
                return shared.device.read_at(rest, at).map(|n| done + n);
            };
            let skip = at % GRANULE;
            let first = (GRANULE - skip).min(rest.len() as u64);
            match shared.find(granule, end, first) {
                Found::Kept(bytes) => {
                    let from = bytes.get(skip as usize..).unwrap_or_default();
                    let n = from.len().min(rest.len());
                    rest[..n].copy_from_slice(&from[..n]);
                    if n == 0 {
                        return Err(Error::damaged(format!("the device has nothing at byte {at}, before its size")));
                    }
                    done += n;
                }
                Found::Mine(count) => {
                    // It is found as kept, or not planned any more, by the next look.
                    shared.fetch(&(granule..granule + count), 0)?;
                }
                Found::Unknown(count) => {
                    let len = (u64::from(count) * GRANULE - skip).min(rest.len() as u64) as usize;
                    let n = shared.device.read_at(&mut rest[..len], at)?;
                    if n == 0 {
                        return Err(Error::damaged(format!("the device has nothing at byte {at}, before its size")));
                    }
                    done += n;
                }
            }
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.shared.device.extent_at(offset)
    }

    /// What lies in a file as it is needs no memory here.
    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        self.shared.device.map(offset, len)
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        self.shared.device.origin_at(offset, limit)
    }
}

impl<D: BlockDevice> BlockDevice for Prefetched<D> {
    fn block_sizes(&self) -> BlockSizes {
        self.shared.device.block_sizes()
    }
}
