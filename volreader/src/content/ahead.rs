//! Sequential reading with read-ahead: several threads fill chunks, one reader takes them in order.
//!
//! One core alone copies bytes out of the page cache more slowly than a plain `pread` of a raw file does: the
//! payload of records is never aligned, and checksums are computed on the way. Two cores together are faster than
//! that `pread`, and for compressed files every core counts. Memory: `threads + 2` chunks.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use blockdev::{Error, ReadAt, Result};

/// Bytes of a chunk: large enough that handing it over costs nothing, small enough for the second-level cache.
pub const CHUNK: usize = 512 << 10;
/// More threads than this only wait for memory.
const MAX_THREADS: usize = 16;

/// Call `take(offset, bytes)` for each piece of `range` of `content`, in order. Stops at the first failure.
///
/// # Errors
///
/// What reading or `take` reports.
pub fn read(content: &dyn ReadAt, range: Range<u64>, take: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let threads = thread::available_parallelism().map_or(2, std::num::NonZero::get).min(MAX_THREADS);
    let chunks = range.end.saturating_sub(range.start).div_ceil(CHUNK as u64);
    if threads < 2 || chunks < 4 {
        let mut buf = vec![0; CHUNK.min((range.end.saturating_sub(range.start)) as usize)];
        return pieces(&range).try_for_each(|piece| {
            let n = content.read_at(&mut buf[..(piece.end - piece.start) as usize], piece.start)?;
            take(piece.start, &buf[..n])
        });
    }
    let shared = Shared { state: Mutex::new(State::default()), changed: Condvar::new(), ahead: threads as u64 + 2 };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| shared.work(content, &range));
        }
        let outcome = (0..chunks).try_for_each(|n| {
            let buf = shared.wait_for(n)?;
            let outcome = take(range.start + n * CHUNK as u64, &buf);
            shared.give_back(buf);
            outcome
        });
        shared.stop();
        outcome
    })
}

fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    (range.start..end).step_by(CHUNK).map(move |start| start..(start + CHUNK as u64).min(end))
}

#[derive(Default)]
struct State {
    /// The next chunk that nobody works on.
    next: u64,
    /// Chunks that were taken.
    taken: u64,
    ready: BTreeMap<u64, Result<Vec<u8>>>,
    spare: Vec<Vec<u8>>,
    stopped: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// How many chunks may be ahead of the reader.
    ahead: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, content: &dyn ReadAt, range: &Range<u64>) {
        loop {
            let (number, mut buf) = {
                let mut state = self.lock();
                while !state.stopped && state.next >= state.taken + self.ahead {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.stopped || range.start + state.next * CHUNK as u64 >= range.end {
                    return;
                }
                state.next += 1;
                (state.next - 1, state.spare.pop().unwrap_or_default())
            };
            let start = range.start + number * CHUNK as u64;
            buf.resize((range.end - start).min(CHUNK as u64) as usize, 0);
            let read = content.read_at(&mut buf, start).map(|n| {
                buf.truncate(n);
                buf
            });
            self.lock().ready.insert(number, read);
            self.changed.notify_all();
        }
    }

    fn wait_for(&self, number: u64) -> Result<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if let Some(read) = state.ready.remove(&number) {
                return read;
            }
            if state.stopped {
                return Err(Error::invalid("reading was stopped"));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, buf: Vec<u8>) {
        let mut state = self.lock();
        state.taken += 1;
        state.spare.push(buf);
        drop(state);
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_order_from_any_start() {
        let content: Vec<u8> = (0..5 * CHUNK + 777).map(|i| (i * 7 + i / 251) as u8).collect();
        for range in [0..content.len() as u64, 5..9, 1000..content.len() as u64 - 3, 7..7] {
            let mut got = Vec::new();
            read(&content, range.clone(), &mut |at, bytes| {
                assert_eq!(at, range.start + got.len() as u64);
                got.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
            assert!(got == content[range.start as usize..range.end as usize]);
        }
    }

    #[test]
    fn a_failure_of_the_taker_ends_it() {
        let content = vec![0u8; 10 * CHUNK];
        let mut calls = 0;
        let outcome = read(&content, 0..content.len() as u64, &mut |_, _| {
            calls += 1;
            if calls == 3 { Err(Error::invalid("enough")) } else { Ok(()) }
        });
        assert_eq!((outcome.unwrap_err().to_string().as_str(), calls), ("enough", 3));
    }
}
