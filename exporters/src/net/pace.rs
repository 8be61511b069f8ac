//! Whether the device answers quickly.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// What takes longer than this, and its bytes at [`BYTES_PER_MICROSECOND`], is slow. Memory and the
/// page cache need some microseconds; a disk, a decompressor or the network more than this.
const SLOW: Duration = Duration::from_micros(500);
const BYTES_PER_MICROSECOND: u64 = 512;

/// What a slow answer adds to the score, of which a quick one takes one away. One slow answer in a while (the
/// scheduler, an interrupt) changes nothing; two close together do, and then a share of three in a hundred keeps it up.
const WEIGHT: u32 = 32;
const SLOW_FROM: u32 = 40;
const MAXIMUM: u32 = 256;

/// A running judgement of how quick a device is.
#[derive(Debug)]
pub(crate) struct Pace {
    /// `score * 2 + slow`; a lost update of another thread does no harm.
    score: AtomicU32,
}

impl Pace {
    pub(crate) const fn new() -> Self {
        Self { score: AtomicU32::new(0) }
    }

    /// Something for `bytes` bytes took the device `time`. Returns whether that was slow.
    pub(crate) fn note(&self, time: Duration, bytes: u64) -> bool {
        let allowed = SLOW + Duration::from_micros(bytes / BYTES_PER_MICROSECOND);
        let state = self.score.load(Ordering::Relaxed);
        let (score, was_slow) = (state >> 1, state & 1 != 0);
        let slow = time > allowed;
        let score = if slow { (score + WEIGHT).min(MAXIMUM) } else { score.saturating_sub(1) };
        let now_slow = score > SLOW_FROM || (was_slow && score > 0);
        let new = score << 1 | u32::from(now_slow);
        if new != state {
            self.score.store(new, Ordering::Relaxed);
        }
        slow
    }

    /// Whether requests had better not wait for each other.
    pub(crate) fn is_slow(&self) -> bool {
        self.score.load(Ordering::Relaxed) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(10);
    const LONG: Duration = Duration::from_millis(5);

    /// One hiccup is forgiven; two close together are not, and many quick answers make it quick again.
    #[test]
    fn hiccups_are_forgiven() {
        let pace = Pace::new();
        assert!(pace.note(LONG, 4096));
        assert!(!pace.is_slow());
        (0..40).for_each(|_| assert!(!pace.note(QUICK, 4096)));
        pace.note(LONG, 4096);
        assert!(!pace.is_slow());
        pace.note(LONG, 4096);
        assert!(pace.is_slow());
        (0..70).for_each(|_| {
            pace.note(QUICK, 4096);
        });
        assert!(!pace.is_slow());
    }

    /// Long requests may take long.
    #[test]
    fn time_is_judged_by_length() {
        assert!(!Pace::new().note(LONG, 32 << 20));
    }
}
