//! Layers: a device over another device, each with one job.
//!
//! * [`AsDevice`]: whatever has bytes.
//! * [`Slice`]: a range of a device; [`Concat`]: devices one after another.
//! * [`Cached`]: what was read, kept in bounded memory.
//! * [`Throttled`]: no more bytes and operations per second than allowed.
//! * [`Counted`]: counters of what is done; [`Traced`]: which parts are read, in order.
//! * [`Prefetched`]: what such a trace says, read before it is asked for.
//! * [`Ahead`]: what is read in order, read before it is asked for.
//! * [`Faulty`]: errors and delays on purpose, for tests.
//!
//! A layer is writable exactly when what is below it is. Every layer writes out every method of the traits: one that
//! were left to a default would lose extents, mapped runs or flushes somewhere in a stack, and nobody would see where.
//! (Images and their parents are one [`Disk`](crate::images::Disk); copy-on-write is an
//! [`Overlay`](crate::overlay::Overlay).)

mod ahead;
mod as_device;
mod cached;
mod concat;
mod counted;
mod faulty;
pub mod prefetch;
mod slice;
mod throttled;
pub mod trace;

pub use self::{
    ahead::Ahead,
    as_device::AsDevice,
    cached::Cached,
    concat::Concat,
    counted::{Counted, Counters, LATENCY_BUCKETS, Operation},
    faulty::{Fault, Faulty, Rule, Target},
    prefetch::Prefetched,
    slice::Slice,
    throttled::{Rates, Throttled},
    trace::{Recorder, Trace, Traced},
};
use crate::{Error, Result};

/// How many bytes of a read of `len` at `offset` are within a device of `size`.
fn within(len: usize, offset: u64, size: u64) -> usize {
    len.min(usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX))
}

/// `range`, when it is all within a device of `size`.
fn checked(range: std::ops::Range<u64>, size: u64) -> Result<std::ops::Range<u64>> {
    if range.start > range.end || range.end > size {
        let std::ops::Range { start, end } = range;
        return Err(Error::invalid(format!("bytes {start}..{end} are not all within the device of {size} bytes")));
    }
    Ok(range)
}

/// The range that a write of `len` bytes at `offset` changes; ends at the last `u64` where it would end past it.
fn range_of(offset: u64, len: usize) -> std::ops::Range<u64> {
    offset..offset.saturating_add(len as u64)
}
