//! Counters of what is done with a device: operations, bytes, errors, and a histogram of how long it took.
//!
//! They are atomics, each for itself: counting never waits, and a reader may see an operation whose bytes are not
//! counted yet.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{BlockDevice, BlockSizes, Extent, MappedRun, ReadAt, Result, WriteAt, origin::Origin};

/// Buckets of a latency histogram: bucket 0 is below 1 µs, bucket `n` from 2^(n-1) µs to below 2^n µs, the last has all
/// that took longer (67 s and more).
pub const LATENCY_BUCKETS: usize = 28;

/// What is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`ReadAt::read_at`].
    Read,
    /// [`WriteAt::write_at`].
    Write,
    /// [`WriteAt::write_zeroes`].
    Zero,
    /// [`WriteAt::discard`].
    Discard,
    /// [`WriteAt::flush`].
    Flush,
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    latency: [AtomicU64; LATENCY_BUCKETS],
}

/// The counters of a device.
#[derive(Debug, Default)]
pub struct Counters {
    counters: [Counter; 5],
    /// Bytes handed out as runs of a file: who took them read them himself, or did not.
    mapped: AtomicU64,
}

impl Counters {
    fn of(&self, operation: Operation) -> &Counter {
        let [read, write, zero, discard, flush] = &self.counters;
        match operation {
            Operation::Read => read,
            Operation::Write => write,
            Operation::Zero => zero,
            Operation::Discard => discard,
            Operation::Flush => flush,
        }
    }

    /// How many there were, with those that failed.
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        self.of(operation).count.load(Ordering::Relaxed)
    }

    /// How many bytes those that succeeded dealt with; 0 for flushes.
    #[must_use]
    pub fn bytes(&self, operation: Operation) -> u64 {
        self.of(operation).bytes.load(Ordering::Relaxed)
    }

    /// How many have failed.
    #[must_use]
    pub fn errors(&self, operation: Operation) -> u64 {
        self.of(operation).errors.load(Ordering::Relaxed)
    }

    /// How many took how long: see [`LATENCY_BUCKETS`].
    #[must_use]
    pub fn latency(&self, operation: Operation) -> [u64; LATENCY_BUCKETS] {
        self.of(operation).latency.each_ref().map(|bucket| bucket.load(Ordering::Relaxed))
    }

    /// Bytes handed out by [`ReadAt::map`]. They are in no other counter.
    #[must_use]
    pub fn mapped(&self) -> u64 {
        self.mapped.load(Ordering::Relaxed)
    }

    fn add(&self, operation: Operation, bytes: Option<u64>, took: Duration) {
        let counter = self.of(operation);
        counter.count.fetch_add(1, Ordering::Relaxed);
        match bytes {
            Some(bytes) => counter.bytes.fetch_add(bytes, Ordering::Relaxed),
            None => counter.errors.fetch_add(1, Ordering::Relaxed),
        };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        if let Some(bucket) = counter.latency.get(bucket.min(LATENCY_BUCKETS - 1)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A device whose operations are counted.
#[derive(Debug)]
pub struct Counted<D> {
    device: D,
    counters: Arc<Counters>,
}

impl<D> Counted<D> {
    /// `device`, counted by `counters`; several devices may share them.
    pub const fn new(device: D, counters: Arc<Counters>) -> Self {
        Self { device, counters }
    }

    /// The counters.
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    fn count<T>(&self, operation: Operation, run: impl FnOnce() -> Result<T>, bytes: impl Fn(&T) -> u64) -> Result<T> {
        let begun = Instant::now();
        let result = run();
        self.counters.add(operation, result.as_ref().ok().map(bytes), begun.elapsed());
        result
    }
}

impl<D: ReadAt> ReadAt for Counted<D> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.count(Operation::Read, || self.device.read_at(buf, offset), |n| *n as u64)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.device.extent_at(offset)
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        let run = self.device.map(offset, len)?;
        self.counters.mapped.fetch_add(run.len, Ordering::Relaxed);
        Some(run)
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        self.device.origin_at(offset, limit)
    }
}

impl<D: BlockDevice> BlockDevice for Counted<D> {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}

impl<D: WriteAt> WriteAt for Counted<D> {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.count(Operation::Write, || self.device.write_at(buf, offset), |()| buf.len() as u64)
    }

    fn write_zeroes(&self, range: Range<u64>, keep: bool) -> Result<()> {
        let bytes = range.end.saturating_sub(range.start);
        self.count(Operation::Zero, || self.device.write_zeroes(range, keep), |()| bytes)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        let bytes = range.end.saturating_sub(range.start);
        self.count(Operation::Discard, || self.device.discard(range), |()| bytes)
    }

    fn flush(&self) -> Result<()> {
        self.count(Operation::Flush, || self.device.flush(), |()| 0)
    }
}
