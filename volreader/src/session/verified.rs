//! Which blocks of a session have been verified: one bit each, allocated as they are touched, bounded.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// Blocks whose bits share an allocation (8 KiB).
const CHUNK: usize = 65_536;
/// Blocks beyond this are verified anew each time (8 MiB of bits: 4 TiB of default-sized blocks a job).
const MAX_BLOCKS: u64 = 64 << 20;

type Bits = Box<[AtomicU64]>;

/// A set of block numbers that many threads add to.
#[derive(Debug)]
pub struct Verified(Vec<OnceLock<Bits>>);

impl Verified {
    /// For block numbers below `end`.
    #[must_use]
    pub fn new(end: u64) -> Self {
        let chunks = end.min(MAX_BLOCKS).div_ceil(CHUNK as u64) as usize;
        Self((0..chunks).map(|_| OnceLock::new()).collect())
    }

    /// Whether `number` was inserted.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        let n = number as usize;
        let bits = self.0.get(n / CHUNK).and_then(OnceLock::get);
        bits.is_some_and(|b| b[n % CHUNK / 64].load(Ordering::Relaxed) >> (n % 64) & 1 == 1)
    }

    /// Insert `number`; forgotten when it is beyond the bound.
    pub fn insert(&self, number: u32) {
        let n = number as usize;
        if let Some(chunk) = self.0.get(n / CHUNK) {
            let bits = chunk.get_or_init(|| (0..CHUNK / 64).map(|_| AtomicU64::new(0)).collect());
            bits[n % CHUNK / 64].fetch_or(1 << (n % 64), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_within_the_bound_and_forgets_beyond() {
        let set = Verified::new(70_000);
        for n in [0, 63, 64, 65_535, 65_536, 69_999] {
            assert!(!set.contains(n));
            set.insert(n);
            assert!(set.contains(n));
        }
        assert!(!set.contains(1));
        set.insert(u32::MAX);
        assert!(!set.contains(u32::MAX));
    }
}
