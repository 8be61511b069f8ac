//! Old-style snapshots: the kernel's persistent exception store (`drivers/md/dm-snap-persistent.c`).
//!
//! The store begins with a header; then come areas, each a chunk of pairs (chunk of the origin, chunk of the store) and
//! the chunks that its pairs name. What has no pair is read from the origin. The pairs are read when the snapshot is read
//! first: looking at a disk must not cost reading a store of gigabytes.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use super::super::raid::Area;
use crate::{
    BlockDevice, Error, ErrorKind, Result,
    fields::{le32, le64, read},
    images::layer::Run,
};

const MAGIC: u32 = 0x7041_6e53;
const VERSION: u32 = 1;
const PAIR: u64 = 16;
/// Pairs that all snapshots of a group may hold: 64 MiB. With chunks of 4 KiB, that is 16 GiB of changes.
const PAIRS_MAX: usize = 4 << 20;

/// How many pairs the snapshots of a group may still hold.
pub struct PairsLeft(AtomicUsize);

impl Default for PairsLeft {
    fn default() -> Self {
        Self(AtomicUsize::new(PAIRS_MAX))
    }
}

/// A snapshot of a volume.
pub struct Snapshot {
    store: Arc<dyn BlockDevice>,
    origin: Area,
    changed: Area,
    /// Bytes.
    chunk: u64,
    /// By chunk of the origin; an error is kept as its sentence.
    pairs: OnceLock<std::result::Result<Vec<(u64, u64)>, String>>,
    left: Arc<PairsLeft>,
}

impl Snapshot {
    /// The snapshot of `origin` with what had changed in `store`, which `changed` is the whole of.
    pub fn open(store: Arc<dyn BlockDevice>, changed: Area, origin: Area, left: Arc<PairsLeft>) -> Result<Self> {
        let header = read(store.as_ref(), 0, 16)?;
        if le32(&header, 0) != MAGIC || le32(&header, 8) != VERSION {
            return Err(Error::damaged("the snapshot's store has no valid header"));
        }
        if le32(&header, 4) == 0 {
            return Err(Error::damaged("the snapshot is invalid: its store was full, and what it kept is incomplete"));
        }
        let chunk = u64::from(le32(&header, 12)) * 512;
        if !chunk.is_power_of_two() || !(4096..=1 << 30).contains(&chunk) {
            return Err(Error::damaged("the snapshot's store has chunks of a size that cannot be"));
        }
        Ok(Self { store, origin, changed, chunk, pairs: OnceLock::new(), left })
    }

    /// The run at `at`, of at most `limit` bytes.
    pub fn run_at(&self, at: u64, limit: u64) -> Result<Run> {
        let pairs = self.pairs.get_or_init(|| self.load().map_err(|e| e.to_string()));
        let pairs = pairs.as_ref().map_err(|e| Error::new(ErrorKind::Damaged, e.clone()))?;
        let (number, within) = (at / self.chunk, at % self.chunk);
        let next = pairs.partition_point(|(old, _)| *old < number);
        match pairs.get(next) {
            Some((old, new)) if *old == number => {
                self.changed.run(new.saturating_mul(self.chunk).saturating_add(within), limit.min(self.chunk - within))
            }
            Some((old, _)) => self.origin.run(at, limit.min(old.saturating_mul(self.chunk).saturating_sub(at))),
            None => self.origin.run(at, limit),
        }
    }

    fn load(&self) -> Result<Vec<(u64, u64)>> {
        let per_area = self.chunk / PAIR;
        let mut pairs = Vec::new();
        // Area after area, until a pair that names no chunk, or the end of the store.
        for area in 0.. {
            let at = (1 + area * (per_area + 1)).saturating_mul(self.chunk);
            if at >= self.store.size() {
                break;
            }
            let mut ended = false;
            // A chunk may be of many MiB.
            let mut done = 0;
            while done < self.chunk && !ended {
                let bytes =
                    read(self.store.as_ref(), at.saturating_add(done), (self.chunk - done).min(64 << 10) as usize)?;
                if bytes.is_empty() {
                    break;
                }
                for pair in bytes.chunks_exact(PAIR as usize) {
                    let (old, new) = (le64(pair, 0), le64(pair, 8));
                    if new == 0 {
                        ended = true;
                        break;
                    }
                    pairs.push((old, new));
                }
                done += bytes.len() as u64;
                if pairs.len() > self.left.0.load(Ordering::Relaxed) {
                    return Err(too_many());
                }
            }
            if ended {
                break;
            }
        }
        let taken =
            self.left.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(pairs.len()));
        taken.map_err(|_| too_many())?;
        pairs.sort_unstable();
        pairs.shrink_to_fit();
        Ok(pairs)
    }
}

fn too_many() -> Error {
    Error::new(ErrorKind::Limit, "the snapshots of the group have too many changes to be read here")
}
