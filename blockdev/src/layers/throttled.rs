//! No more bytes and operations per second than allowed: a backup that is being recovered from leaves the storage to
//! others too.
//!
//! Each rate is a token bucket that holds what one second allows. An operation takes its tokens at once, also more than
//! there are, and then waits until the debt is paid; so a large operation is as fast on average as many small ones, and
//! threads wait in the order in which they came.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{BlockDevice, BlockSizes, Extent, MappedRun, ReadAt, Result, WriteAt, origin::Origin};

/// What is allowed; `None`: any amount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes read and written, per second.
    pub bytes: Option<u64>,
    /// Reads, writes, zeroings and discards, per second.
    pub operations: Option<u64>,
}

/// A device that keeps to [`Rates`].
#[derive(Debug)]
pub struct Throttled<D> {
    device: D,
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Tokens per second, not 0.
    rate: f64,
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        let rate = rate.max(1) as f64;
        Self { rate, state: Mutex::new((rate, Instant::now())) }
    }

    /// Take `count` tokens; how long to wait for them.
    fn take(&self, count: u64) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let filled = (state.0 + self.rate * now.duration_since(state.1).as_secs_f64()).min(self.rate);
        let left = filled - count as f64;
        *state = (left, now);
        if left >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-left / self.rate).unwrap_or(Duration::MAX)
    }
}

impl<D> Throttled<D> {
    /// `device`, no faster than `rates`. A rate of 0 counts as 1.
    pub fn new(device: D, rates: Rates) -> Self {
        Self { device, bytes: rates.bytes.map(Bucket::new), operations: rates.operations.map(Bucket::new) }
    }

    /// Wait until an operation of `bytes` bytes is allowed.
    fn pay(&self, bytes: u64) {
        let wait = |bucket: &Option<Bucket>, count| bucket.as_ref().map_or(Duration::ZERO, |b| b.take(count));
        let wait = wait(&self.bytes, bytes).max(wait(&self.operations, 1));
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }
}

impl<D: ReadAt> ReadAt for Throttled<D> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.pay(super::within(buf.len(), offset, self.size()) as u64);
        self.device.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.device.extent_at(offset)
    }

    /// Never: who reads the file itself does not wait.
    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        self.device.origin_at(offset, limit)
    }
}

impl<D: BlockDevice> BlockDevice for Throttled<D> {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}

impl<D: WriteAt> WriteAt for Throttled<D> {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.pay(buf.len() as u64);
        self.device.write_at(buf, offset)
    }

    /// Costs an operation, but no bytes: none are moved.
    fn write_zeroes(&self, range: Range<u64>, keep: bool) -> Result<()> {
        self.pay(0);
        self.device.write_zeroes(range, keep)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.pay(0);
        self.device.discard(range)
    }

    /// Never waits: what is safe early costs nobody anything.
    fn flush(&self) -> Result<()> {
        self.device.flush()
    }
}
