//! Errors and delays on purpose, to test what is built on devices.
//!
//! The same seed and the same operations in the same order give the same faults.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::range_of;
use crate::{BlockDevice, BlockSizes, Error, ErrorKind, Extent, MappedRun, ReadAt, Result, WriteAt, origin::Origin};

/// What a [`Rule`] does to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this kind, and changes nothing.
    Error(ErrorKind),
    /// It takes so much longer.
    Delay(Duration),
}

/// Which operations a [`Rule`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Reads and the search for extents.
    Reads,
    /// Writes, zeroing, discards.
    Writes,
    /// Flushes; they touch every range.
    Flushes,
}

/// A fault, and when it strikes.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What it is for.
    pub target: Target,
    /// Operations that touch these bytes.
    pub range: Range<u64>,
    /// How often it strikes: 0.0 never, 1.0 always.
    pub probability: f64,
    /// What happens.
    pub fault: Fault,
}

/// A device with faults.
#[derive(Debug)]
pub struct Faulty<D> {
    device: D,
    rules: Vec<Rule>,
    random: Mutex<fastrand::Rng>,
}

impl<D> Faulty<D> {
    /// `device` under `rules`, which are tried in order; every delay counts, the first error ends the operation.
    pub fn new(device: D, rules: Vec<Rule>, seed: u64) -> Self {
        Self { device, rules, random: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }

    /// Let the rules strike at an operation for `target` that touches `range`.
    fn strike(&self, target: Target, range: &Range<u64>) -> Result<()> {
        for rule in self.rules.iter().filter(|rule| rule.target == target) {
            let touches = range.start < rule.range.end && rule.range.start < range.end;
            if !touches && target != Target::Flushes {
                continue;
            }
            if self.random.lock().unwrap_or_else(PoisonError::into_inner).f64() >= rule.probability {
                continue;
            }
            match rule.fault {
                Fault::Delay(time) => std::thread::sleep(time),
                Fault::Error(kind) => {
                    let Range { start, end } = range;
                    return Err(Error::new(kind, format!("a fault put on bytes {start}..{end} ({target:?})")));
                }
            }
        }
        Ok(())
    }
}

impl<D: ReadAt> ReadAt for Faulty<D> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.strike(Target::Reads, &range_of(offset, buf.len()))?;
        self.device.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.strike(Target::Reads, &range_of(offset, 1))?;
        self.device.extent_at(offset)
    }

    /// Never: nothing would strike at who reads the file itself.
    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        self.device.origin_at(offset, limit)
    }
}

impl<D: BlockDevice> BlockDevice for Faulty<D> {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}

impl<D: WriteAt> WriteAt for Faulty<D> {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.strike(Target::Writes, &range_of(offset, buf.len()))?;
        self.device.write_at(buf, offset)
    }

    fn write_zeroes(&self, range: Range<u64>, keep: bool) -> Result<()> {
        self.strike(Target::Writes, &range)?;
        self.device.write_zeroes(range, keep)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.strike(Target::Writes, &range)?;
        self.device.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.strike(Target::Flushes, &(0..u64::MAX))?;
        self.device.flush()
    }
}
