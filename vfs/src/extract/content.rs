//! The bytes of a file: read, written and hashed in one pass.
//!
//! Holes are left out. What cannot be read is narrowed down, so that everything around it is restored; it stays zeros
//! and is reported. A digest of a large file is computed by a thread of its own, which is given the buffers after
//! they are written: reading and writing take one core, hashing another.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use blockdev::{Error, ErrorKind, Extent, ExtentKind, ReadAt, Result};
use parking_lot::{Condvar, Mutex};
use rustix::fd::{AsFd, OwnedFd};

use volreader::{content::ahead, digest::Hasher};

use super::{Run, summary::Failure, target::failed};
use crate::node::StoredDigest;

/// Bytes read at once.
const CHUNK: usize = 512 << 10;

/// Buffers on their way to and from a hashing thread.
const BUFFERS: usize = 3;

/// From this size on hashing has a thread of its own, in bytes: below, starting it costs more than it gains.
const OWN_THREAD: u64 = 4 << 20;

/// What one worker takes of a shared file at once, in bytes.
const SHARE: u64 = 16 << 20;

/// Bad ranges of one file that are kept; neighbours count as one.
const KEPT: usize = 4096;

/// Bad ranges that are told in the end.
const TOLD: usize = 16;

/// Failed reads of one file after which bad places are narrowed down less finely, and the piece that is given up then,
/// in bytes: a file whose volume is missing must not take for ever.
const GRANULARITY: [(u64, u64); 3] = [(4096, 512), (1 << 16, 64 << 10), (u64::MAX, CHUNK as u64)];

/// What could not be read.
#[derive(Default)]
pub(super) struct Bad {
    ranges: Vec<Range<u64>>,
    /// Ranges beyond those.
    more: u64,
    /// The first reason.
    reason: Option<Error>,
    /// Of the whole file: those who copy parts of it lose patience together.
    failed_reads: Arc<AtomicU64>,
}

impl Bad {
    /// Nothing yet, in a part of the same file.
    fn of_another_part(&self) -> Self {
        Self { failed_reads: Arc::clone(&self.failed_reads), ..Self::default() }
    }

    fn add(&mut self, range: Range<u64>) {
        let known = self.ranges.len();
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if known < KEPT => self.ranges.push(range),
            _ => self.more += 1,
        }
    }

    fn failed(&mut self, error: Error) {
        self.failed_reads.fetch_add(1, Ordering::Relaxed);
        self.reason.get_or_insert(error);
    }

    fn granularity(&self) -> u64 {
        let failed = self.failed_reads.load(Ordering::Relaxed);
        GRANULARITY.iter().find(|(reads, _)| failed < *reads).map_or(CHUNK as u64, |(_, piece)| *piece)
    }

    /// The ranges in order, a few, and in words why and how many more; `None` if all could be read.
    pub(super) fn told(mut self) -> Option<(Vec<Range<u64>>, String)> {
        let reason = self.reason.map_or_else(|| "cannot be read".to_owned(), |e| e.to_string());
        self.ranges.sort_by_key(|range| range.start);
        self.ranges.dedup_by(|next, last| {
            let joins = last.end == next.start;
            if joins {
                last.end = next.end;
            }
            joins
        });
        let more = self.more + self.ranges.len().saturating_sub(TOLD) as u64;
        self.ranges.truncate(TOLD);
        match (self.ranges.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some((self.ranges, reason)),
            (false, more) => Some((self.ranges, format!("{reason} (and {more} more ranges)"))),
        }
    }

    fn merge(&mut self, other: Self) {
        for range in other.ranges {
            self.add(range);
        }
        self.more += other.more;
        self.reason = self.reason.take().or(other.reason);
    }
}

/// Where bytes are copied to. What is not written is zeros there.
pub(super) trait Out {
    /// Put `bytes` at `at`.
    fn write(&mut self, bytes: &[u8], at: u64) -> Result<()>;
}

impl Out for &OwnedFd {
    fn write(&mut self, mut bytes: &[u8], mut at: u64) -> Result<()> {
        while !bytes.is_empty() {
            match rustix::io::pwrite(*self, bytes, at) {
                Ok(0) => return Err(Error::new(ErrorKind::Io, "cannot write: nothing was taken")),
                Ok(n) => {
                    bytes = bytes.get(n..).unwrap_or_default();
                    at += n as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(failed("cannot write", e)),
            }
        }
        Ok(())
    }
}

/// What is wrong with a file that was copied: what could not be read, or that it is not as its stored digest says.
pub(super) fn failure(
    bad: Bad,
    stored: Option<StoredDigest>,
    digest: Option<Vec<u8>>,
    path: &dyn Fn() -> Vec<u8>,
) -> Option<Failure> {
    match (bad.told(), stored, digest) {
        (Some((ranges, reason)), ..) => Some(Failure { path: path(), ranges, reason }),
        (None, Some(stored), Some(digest)) if stored.value != digest => {
            let reason = format!("its content does not match its stored digest ({:?})", stored.algorithm);
            Some(Failure { path: path(), ranges: Vec::new(), reason })
        }
        _ => None,
    }
}

/// Copy `ranges` of `content`, which are all its data, to `out` in their order. Returns as [`copy`] does.
///
/// # Errors
///
/// When writing fails, or the work is to be stopped.
pub(super) fn copy_in_order(
    run: &Run<'_>,
    content: &dyn ReadAt,
    ranges: &[Range<u64>],
    out: &mut dyn Out,
    hasher: Option<Hasher>,
) -> Result<(Bad, Option<Vec<u8>>)> {
    let mut copy = Copy { run, content, out, tap: Tap::new(hasher, content.size()), bad: Bad::default() };
    for range in ranges {
        copy.data(range.clone())?;
    }
    Ok((copy.bad, copy.tap.finish()))
}

/// Copy all of `content` to `out`, whose size is set already. Returns what could not be read, and the digest if
/// `hasher` was given and everything could.
///
/// # Errors
///
/// When writing fails, or the work is to be stopped.
pub(super) fn copy(
    run: &Run<'_>,
    content: &dyn ReadAt,
    out: &OwnedFd,
    hasher: Option<Hasher>,
) -> Result<(Bad, Option<Vec<u8>>)> {
    let size = content.size();
    let mut copy = Copy { run, content, out, tap: Tap::new(hasher, size), bad: Bad::default() };
    copy.range(0..size)?;
    Ok((copy.bad, copy.tap.finish()))
}

impl<O: Out + ?Sized> Out for &mut O {
    fn write(&mut self, bytes: &[u8], at: u64) -> Result<()> {
        (**self).write(bytes, at)
    }
}

struct Copy<'c, O> {
    run: &'c Run<'c>,
    content: &'c dyn ReadAt,
    out: O,
    tap: Tap,
    bad: Bad,
}

impl<O: Out> Copy<'_, O> {
    fn range(&mut self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        // Finding out may cost more than a chunk does: an extent is asked for once.
        let mut known: Option<Extent> = None;
        while at < range.end {
            self.go_on()?;
            if known.as_ref().is_none_or(|extent| extent.range.end <= at) {
                known = self.content.extent_at(at).ok().flatten().filter(|extent| extent.range.end > at);
            }
            let (kind, end) = match &known {
                Some(extent) => (extent.kind, extent.range.end),
                // Not to be known: try to read it.
                None => (ExtentKind::Data, at.saturating_add(CHUNK as u64)),
            };
            let mut end = end.min(range.end);
            if kind == ExtentKind::Data {
                end = end.min(at.saturating_add(CHUNK as u64));
                self.chunk(at..end)?;
            }
            self.run.progress.done(0, end - at);
            at = end;
        }
        Ok(())
    }

    /// An error when the work is to be stopped.
    fn go_on(&self) -> Result<()> {
        if self.run.stopping() { Err(Error::new(ErrorKind::Limit, "stopped")) } else { Ok(()) }
    }

    /// Copy `range`, all of which is data, with read-ahead as far as it can be read.
    fn data(&mut self, range: Range<u64>) -> Result<()> {
        let (content, mut at) = (self.content, range.start);
        while at < range.end {
            let mut refused = None;
            let read = ahead::read(content, at..range.end, &mut |start, bytes| {
                let taken = self.go_on().and_then(|()| self.take(bytes, start));
                at = start + bytes.len() as u64;
                taken.map_err(|e| {
                    refused = Some(e);
                    Error::invalid("refused")
                })
            });
            match (read, refused) {
                (Ok(()), _) => break,
                (Err(_), Some(e)) => return Err(e),
                (Err(_), None) => {
                    // What cannot be read is copied piece by piece; then it goes on as before.
                    let end = at.saturating_add(CHUNK as u64).min(range.end);
                    self.chunk(at..end)?;
                    self.run.progress.done(0, end - at);
                    at = end;
                }
            }
        }
        Ok(())
    }

    /// Write `bytes`, which were read from `at` on, and hash them.
    fn take(&mut self, bytes: &[u8], at: u64) -> Result<()> {
        self.out.write(bytes, at)?;
        self.run.progress.done(0, bytes.len() as u64);
        if !matches!(self.tap, Tap::None(_)) {
            let mut buffer = self.tap.buffer();
            if let Some(part) = buffer.get_mut(..bytes.len()) {
                part.copy_from_slice(bytes);
            }
            self.tap.pass(buffer, bytes.len());
        }
        Ok(())
    }

    /// Copy at most [`CHUNK`] bytes of data.
    fn chunk(&mut self, range: Range<u64>) -> Result<()> {
        let mut buffer = self.tap.buffer();
        let written = match self.read(&mut buffer, &range) {
            Ok(n) => {
                let bytes = buffer.get(..n).unwrap_or_default();
                self.out.write(bytes, range.start).map(|()| n)
            }
            Err(e) => {
                self.bad.failed(e);
                self.salvage(range, &mut buffer).map(|()| 0)
            }
        };
        let n = written?;
        self.tap.pass(buffer, n);
        Ok(())
    }

    /// Read all of `range` into the beginning of `buffer`; returns its length.
    fn read(&self, buffer: &mut [u8], range: &Range<u64>) -> Result<usize> {
        let wanted = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let Some(buffer) = buffer.get_mut(..wanted) else { return Err(Error::invalid("a read too large")) };
        match self.content.read_at(buffer, range.start)? {
            n if n == wanted => Ok(n),
            n => Err(Error::damaged(format!("a read of {wanted} bytes at {} gave {n}", range.start))),
        }
    }

    /// `range`, a chunk, cannot be read in one piece: copy what can be read of it. The ends are found exactly; what is bad
    /// between two bad places in pieces.
    fn salvage(&mut self, range: Range<u64>, buffer: &mut [u8]) -> Result<()> {
        self.tap.broken();
        let mut found = Salvaged { start: range.start, bytes: vec![0; buffer.len()], len: 0 };
        let mut bad = range;
        if self.bad.granularity() < CHUNK as u64 {
            let good = self.longest(bad.end - bad.start, |n| bad.start..bad.start + n, buffer);
            self.piece(bad.start..bad.start + good, buffer, &mut found);
            bad.start += good;
            let good = self.longest(bad.end - bad.start, |n| bad.end - n..bad.end, buffer);
            self.piece(bad.end - good..bad.end, buffer, &mut found);
            bad.end -= good;
        }
        let mut pieces = vec![bad];
        while let Some(piece) = pieces.pop() {
            let Err(error) = self.read(buffer, &piece) else {
                self.piece(piece, buffer, &mut found);
                continue;
            };
            self.bad.failed(error);
            if piece.end - piece.start <= self.bad.granularity() {
                self.bad.add(piece);
            } else {
                let middle = piece.start + (piece.end - piece.start) / 2;
                pieces.push(middle..piece.end);
                pieces.push(piece.start..middle);
            }
        }
        // Of a chunk of which nothing could be read nothing is written: it is a hole.
        self.out.write(found.bytes.get(..found.len).unwrap_or_default(), found.start)
    }

    /// The largest `n` below `len` for which `range(n)` can be read.
    fn longest(&mut self, len: u64, range: impl Fn(u64) -> Range<u64>, buffer: &mut [u8]) -> u64 {
        let (mut good, mut bad) = (0, len);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            match self.read(buffer, &range(middle)) {
                Ok(_) => good = middle,
                Err(e) => {
                    self.bad.failed(e);
                    bad = middle;
                }
            }
        }
        good
    }

    /// Keep a piece that was readable just now.
    fn piece(&mut self, piece: Range<u64>, buffer: &mut [u8], found: &mut Salvaged) {
        if piece.is_empty() {
            return;
        }
        match self.read(buffer, &piece) {
            Ok(n) => found.put(buffer.get(..n).unwrap_or_default(), piece.start),
            Err(e) => {
                self.bad.failed(e);
                self.bad.add(piece);
            }
        }
    }
}

/// What could be read of a chunk, and zeros between: it is written in one piece, for some targets take bytes only in their
/// order.
struct Salvaged {
    start: u64,
    bytes: Vec<u8>,
    /// Bytes up to the end of the last piece.
    len: usize,
}

impl Salvaged {
    fn put(&mut self, piece: &[u8], at: u64) {
        let start = (at - self.start) as usize;
        if let Some(place) = self.bytes.get_mut(start..start + piece.len()) {
            place.copy_from_slice(piece);
            self.len = self.len.max(start + piece.len());
        }
    }
}

/// Where buffers come from, and who else sees what is in them.
enum Tap {
    /// Nobody.
    None(Vec<u8>),
    /// A hasher, on the spot.
    Here(Vec<u8>, Hasher),
    /// A hasher in a thread of its own.
    Thread { free: Receiver<Vec<u8>>, full: SyncSender<(Vec<u8>, usize)>, hasher: JoinHandle<Vec<u8>> },
}

impl Tap {
    fn new(hasher: Option<Hasher>, size: u64) -> Self {
        let buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
        let Some(hasher) = hasher else { return Self::None(buffer) };
        if size < OWN_THREAD {
            return Self::Here(buffer, hasher);
        }
        let (free_in, free) = sync_channel(BUFFERS);
        let (full, full_out) = sync_channel::<(Vec<u8>, usize)>(BUFFERS);
        for _ in 0..BUFFERS {
            let _receiver_is_here = free_in.send(vec![0; CHUNK]);
        }
        let mut hasher = hasher;
        let work = move || {
            for (buffer, n) in full_out {
                hasher.update(buffer.get(..n).unwrap_or_default());
                let _writer_is_gone = free_in.send(buffer);
            }
            hasher.finish()
        };
        match thread::Builder::new().name("extract-hash".into()).spawn(work) {
            Ok(hasher) => Self::Thread { free, full, hasher },
            Err(_) => Self::None(buffer),
        }
    }

    /// A buffer to read into.
    fn buffer(&mut self) -> Vec<u8> {
        match self {
            Self::None(buffer) | Self::Here(buffer, _) => std::mem::take(buffer),
            // The other end goes away only when it has panicked.
            Self::Thread { free, .. } => free.recv().unwrap_or_else(|_| vec![0; CHUNK]),
        }
    }

    /// Give it back; its first `n` bytes are the next of the file.
    fn pass(&mut self, bytes: Vec<u8>, n: usize) {
        match self {
            Self::None(buffer) => *buffer = bytes,
            Self::Here(buffer, hasher) => {
                hasher.update(bytes.get(..n).unwrap_or_default());
                *buffer = bytes;
            }
            Self::Thread { full, .. } => {
                let _hasher_is_gone = full.send((bytes, n));
            }
        }
    }

    /// Bytes are missing: no digest will come of it.
    fn broken(&mut self) {
        // The buffer is out; it comes back by `pass`.
        *self = Self::None(Vec::new());
    }

    fn finish(self) -> Option<Vec<u8>> {
        match self {
            Self::None(_) => None,
            Self::Here(_, hasher) => Some(hasher.finish()),
            Self::Thread { full, hasher, .. } => {
                drop(full);
                hasher.join().ok()
            }
        }
    }
}

/// A large file that several workers copy, each a part of it at a time.
pub(super) struct Shared {
    content: Arc<dyn ReadAt>,
    out: OwnedFd,
    state: Mutex<SharedState>,
    changed: Condvar,
}

#[derive(Default)]
struct SharedState {
    next: u64,
    active: usize,
    bad: Bad,
    error: Option<Error>,
}

impl Shared {
    /// Whether a file of this size is worth sharing.
    pub(super) const fn worth(size: u64) -> bool {
        size >= 4 * SHARE
    }

    pub(super) fn new(content: Arc<dyn ReadAt>, out: OwnedFd) -> Self {
        Self { content, out, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn has_work(&self) -> bool {
        let state = self.state.lock();
        state.error.is_none() && state.next < self.content.size()
    }

    /// Copy parts until there are none left.
    pub(super) fn help(&self, run: &Run<'_>) {
        loop {
            let (range, bad) = {
                let mut state = self.state.lock();
                let range = state.next..state.next.saturating_add(SHARE).min(self.content.size());
                if state.error.is_some() || range.is_empty() {
                    return;
                }
                state.next = range.end;
                state.active += 1;
                (range, state.bad.of_another_part())
            };
            let mut part = Part { shared: self, result: None };
            let tap = Tap::new(None, SHARE);
            let mut copy = Copy { run, content: self.content.as_ref(), out: &self.out, tap, bad };
            let copied = copy.range(range);
            part.result = Some(copied.map(|()| copy.bad));
        }
    }

    /// Wait until all parts are done.
    pub(super) fn wait(&self) -> Result<Bad> {
        let mut state = self.state.lock();
        while state.active > 0 {
            self.changed.wait(&mut state);
        }
        let bad = std::mem::take(&mut state.bad);
        state.error.take().map_or(Ok(bad), Err)
    }
}

/// A part under way; also one that ends by a panic is not waited for.
struct Part<'s> {
    shared: &'s Shared,
    result: Option<Result<Bad>>,
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.active -= 1;
        match self.result.take() {
            Some(Ok(bad)) => state.bad.merge(bad),
            Some(Err(e)) => state.error = Some(e),
            None => state.error = Some(Error::new(ErrorKind::Io, "a bug in this program: please report it")),
        }
        self.shared.changed.notify_all();
    }
}

/// Set the size of a fresh file: what is not written is a hole.
pub(super) fn set_size(out: impl AsFd, size: u64) -> Result<()> {
    rustix::fs::ftruncate(out, size).map_err(|e| failed("cannot make a file of its size", e))
}
