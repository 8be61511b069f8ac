//! What is read in order, read before it is asked for: for devices that answer one request after another, such as a disk
//! behind a socket, and a reader that waits for each.
//!
//! Threads fetch the ranges of a plan, a piece at a time, as far ahead as there is memory for; a piece is dropped when the
//! reader has gone past it. A reader that leaves the order reads from the device itself; when it goes on in order there,
//! reading ahead goes on there, too. Threads start with the first read; the memory of dropped pieces is used again.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use super::within;
use crate::{BlockDevice, BlockSizes, Error, Extent, MappedRun, ReadAt, Result, origin::Origin};

/// Bytes of a piece.
const PIECE: u64 = 1 << 20;
/// So many reads in order elsewhere, and reading ahead goes on there.
const MOVED: u32 = 4;

/// A device that is read ahead. Dropping it ends the threads.
pub struct Ahead<D: BlockDevice + 'static> {
    shared: Arc<Shared<D>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    wanted: usize,
}

struct Shared<D> {
    device: D,
    /// Ascending, not touching.
    plan: Vec<Range<u64>>,
    pieces_max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The run of the plan to be fetched from next, and the first byte.
    next: (usize, u64),
    window: VecDeque<Piece>,
    /// Where a reader outside the window would go on, and how often it did.
    stray: (u64, u32),
    /// Memory of pieces that the reader has gone past.
    spare: Vec<Vec<u8>>,
    started: bool,
    ended: bool,
}

struct Piece {
    range: Range<u64>,
    bytes: Bytes,
}

enum Bytes {
    Coming,
    Here(Arc<Vec<u8>>),
    /// Who wants them reads them again, and gets the error.
    Failed,
}

impl<D: BlockDevice + 'static> Ahead<D> {
    /// `device`, whose ranges of `plan` (ascending) are wanted in this order; at most `memory` bytes are kept, and
    /// `threads` read.
    #[must_use]
    pub fn new(device: D, plan: Vec<Range<u64>>, memory: u64, threads: usize) -> Self {
        let pieces_max = usize::try_from(memory / PIECE).unwrap_or(usize::MAX).max(1);
        let shared = Shared { device, plan, pieces_max, state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared), threads: Mutex::default(), wanted: threads.clamp(1, 16) }
    }

    /// Starts the threads; without any, everything is read when it is asked for.
    fn start(&self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        while threads.len() < self.wanted {
            let shared = Arc::clone(&self.shared);
            let Ok(thread) = thread::Builder::new().name("read-ahead".into()).spawn(move || shared.run()) else {
                return;
            };
            threads.push(thread);
        }
    }
}

impl<D: BlockDevice> Shared<D> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's work.
    fn run(&self) {
        let mut state = self.lock();
        while !state.ended {
            let piece = (state.window.len() < self.pieces_max).then(|| self.take(&mut state)).flatten();
            let Some(range) = piece else {
                state = self.wait(state);
                continue;
            };
            state = self.fetch(state, range);
        }
    }

    /// Reads a piece that is in the window.
    fn fetch<'a>(&'a self, mut state: MutexGuard<'a, State>, range: Range<u64>) -> MutexGuard<'a, State> {
        let mut buf = state.spare.pop().unwrap_or_default();
        drop(state);
        // A piece is at most PIECE bytes. What was used before is not cleared again.
        buf.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
        let is_read = matches!(self.device.read_at(&mut buf, range.start), Ok(n) if n == buf.len());
        let mut state = self.lock();
        // The window may have moved on.
        if let Some(piece) = state.window.iter_mut().find(|piece| piece.range == range) {
            piece.bytes = if is_read { Bytes::Here(Arc::new(buf)) } else { Bytes::Failed };
        }
        self.changed.notify_all();
        state
    }

    /// The next piece.
    fn next(&self, state: &State) -> Option<Range<u64>> {
        let (run, at) = state.next;
        let range = self.plan.get(run)?;
        let start = at.max(range.start);
        Some(start..(start / PIECE + 1).saturating_mul(PIECE).min(range.end))
    }

    fn is_next(&self, state: &State, offset: u64) -> bool {
        state.started && self.next(state).is_some_and(|piece| piece.contains(&offset))
    }

    /// The next piece, which is in the window now.
    fn take(&self, state: &mut State) -> Option<Range<u64>> {
        let piece = self.next(state)?;
        let run = state.next.0;
        let is_last = self.plan.get(run).is_none_or(|range| piece.end >= range.end);
        state.next = if is_last { (run + 1, 0) } else { (run, piece.end) };
        state.window.push_back(Piece { range: piece.clone(), bytes: Bytes::Coming });
        Some(piece)
    }

    /// Reading ahead goes on at `offset`.
    fn go_to(&self, state: &mut State, offset: u64) {
        state.window.clear();
        let run = self.plan.partition_point(|range| range.end <= offset);
        state.next = (run, offset);
        state.stray = (offset, 0);
        self.changed.notify_all();
    }

    /// The piece that has the byte at `offset`, once it is here, and where it begins. `None`: nobody fetches it.
    fn piece(&self, offset: u64) -> Option<(Arc<Vec<u8>>, u64)> {
        let mut state = self.lock();
        loop {
            let Some(piece) = state.window.iter().find(|piece| piece.range.contains(&offset)) else {
                // The reader is faster than the threads: it fetches the next piece by itself.
                if !self.is_next(&state, offset) {
                    return None;
                }
                let range = self.take(&mut state)?;
                state = self.fetch(state, range);
                continue;
            };
            match &piece.bytes {
                Bytes::Coming => state = self.wait(state),
                Bytes::Failed => return None,
                Bytes::Here(bytes) => {
                    let found = (Arc::clone(bytes), piece.range.start);
                    // The reader has gone past those before.
                    let before = state.window.iter().take_while(|piece| piece.range.end <= offset).count();
                    if before > 0 {
                        let passed: Vec<Piece> = state.window.drain(..before).collect();
                        // Another reader may still copy out of one.
                        let memory = passed.into_iter().filter_map(|piece| match piece.bytes {
                            Bytes::Here(bytes) => Arc::into_inner(bytes),
                            Bytes::Coming | Bytes::Failed => None,
                        });
                        state.spare.extend(memory);
                        state.spare.truncate(self.pieces_max);
                        self.changed.notify_all();
                    }
                    return Some(found);
                }
            }
        }
    }

    /// Notes a read that nobody had fetched: whether it is the first.
    fn strayed(&self, range: Range<u64>) -> bool {
        let mut state = self.lock();
        if !state.started {
            state.started = true;
            self.go_to(&mut state, range.end);
            return true;
        }
        let times = if state.stray.0 == range.start { state.stray.1 + 1 } else { 0 };
        state.stray = (range.end, times);
        if times >= MOVED {
            self.go_to(&mut state, range.end);
        }
        false
    }
}

impl<D: BlockDevice + 'static> ReadAt for Ahead<D> {
    fn size(&self) -> u64 {
        self.shared.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let len = within(buf.len(), offset, self.size());
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..len).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            if let Some((bytes, start)) = self.shared.piece(at) {
                let from = bytes.get(usize::try_from(at - start).unwrap_or(usize::MAX)..).unwrap_or_default();
                // Not 0: the piece has the byte at `at`.
                let n = from.len().min(rest.len());
                rest[..n].copy_from_slice(&from[..n]);
                done += n;
                continue;
            }
            let n = self.shared.device.read_at(rest, at)?;
            if n != rest.len() {
                return Err(Error::damaged(format!("a read of {} bytes at {at} gave {n}", rest.len())));
            }
            if self.shared.strayed(at..at + n as u64) {
                self.start();
            }
            done += n;
        }
        Ok(len)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.shared.device.extent_at(offset)
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        self.shared.device.origin_at(offset, limit)
    }
}

impl<D: BlockDevice + 'static> BlockDevice for Ahead<D> {
    fn block_sizes(&self) -> BlockSizes {
        self.shared.device.block_sizes()
    }
}

impl<D: BlockDevice + 'static> Drop for Ahead<D> {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::layers::AsDevice;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn every_byte_in_order_and_out_of_it() {
        let all = bytes(10 << 20);
        let plan = vec![0..3 << 20, (4 << 20) + 512..(4 << 20) + 1024, 6 << 20..10 << 20];
        let ahead = Ahead::new(AsDevice::new(all.clone(), BlockSizes::CLASSIC), plan, 3 << 20, 2);
        // As the File daemon reads a file with `sparse`: pieces that are no power of two.
        let mut buf = vec![0; 65024];
        let mut at = 0_usize;
        while at < all.len() {
            let n = ahead.read_at(&mut buf, at as u64).expect("a read");
            assert_eq!(buf[..n], all[at..at + n], "{at}");
            assert!(ahead.shared.lock().window.len() <= 3);
            at += n;
        }
        // And back again, and somewhere else.
        for at in [9 << 20, 12345, 12345 + 65024, 5 << 20, 0, (10 << 20) - 7] {
            let n = ahead.read_at(&mut buf, at as u64).expect("a read");
            assert_eq!(buf[..n], all[at..at + n], "{at}");
        }
        assert_eq!(ahead.read_at(&mut buf, 10 << 20).expect("the end"), 0);
    }

    /// Counts who reads.
    struct Counting(Vec<u8>, Arc<AtomicU64>);

    impl ReadAt for Counting {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.read_at(buf, offset)
        }
        fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
            self.0.extent_at(offset)
        }
        fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
            None
        }
    }

    #[test]
    fn small_reads_are_few_large_ones() {
        let reads = Arc::new(AtomicU64::new(0));
        let device = AsDevice::new(Counting(bytes(8 << 20), Arc::clone(&reads)), BlockSizes::CLASSIC);
        let ahead = Ahead::new(device, vec![0..8 << 20], 4 << 20, 2);
        let mut buf = vec![0; 4096];
        for at in (0..8 << 20).step_by(4096) {
            ahead.read_at(&mut buf, at).expect("a read");
        }
        // The first, and one for each MiB.
        assert!(reads.load(Ordering::Relaxed) <= 10, "{}", reads.load(Ordering::Relaxed));
        // A second reader begins again: after a few reads it is read ahead of, too.
        for at in (0..4 << 20).step_by(4096) {
            ahead.read_at(&mut buf, at).expect("a read");
        }
        assert!(reads.load(Ordering::Relaxed) <= 30, "{}", reads.load(Ordering::Relaxed));
    }
}
