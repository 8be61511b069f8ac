//! Which units (clusters, blocks, grains) of a disk hold data, and how many do before a given one.
//!
//! A container stores the units that hold data one after another, so everything in it follows from two questions: is
//! unit *n* stored, as the how-manieth (its *rank*), and which unit has rank *r*? Both are answered from runs, or,
//! where there are too many of them, from one bit per unit, as compressed bitmaps do it: for each [`CHUNK`] units
//! whichever is smaller. So a disk of few runs costs half a megabyte for 64 TiB in clusters of 64 KiB, and the worst
//! disk costs one bit for each cluster (128 MiB for those 64 TiB).

use std::ops::Range;

use crate::{Error, ExtentKind, ReadAt, Result};

/// Units that are described together.
const CHUNK: u64 = 1 << 16;

/// Words of the bits of a chunk.
const WORDS: usize = CHUNK as usize / 64;

/// Runs of a chunk (4 bytes each) that need as much room as its bits.
const RUNS_MAX: usize = WORDS * size_of::<u64>() / size_of::<(u16, u16)>();

/// The units of a disk that hold data.
#[derive(Debug)]
pub struct Allocation {
    /// Units of the disk; those beyond hold no data.
    units: u64,
    total: u64,
    chunks: Vec<Chunk>,
}

/// A run of units that are all stored or all not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitRun {
    /// Their numbers, never empty.
    pub units: Range<u64>,
    /// The rank of the first where they are stored: the others follow.
    pub rank: Option<u64>,
}

#[derive(Debug)]
struct Chunk {
    /// Stored units in the chunks before.
    rank: u64,
    members: Members,
}

#[derive(Debug)]
enum Members {
    /// First and last unit of each run, ascending, not touching.
    Runs(Vec<(u16, u16)>),
    Bits(Box<[u64; WORDS]>),
}

impl Allocation {
    /// The units of `unit` bytes of which `disk` stores at least a byte.
    ///
    /// # Errors
    ///
    /// When the disk cannot tell its extents.
    pub fn of(disk: &dyn ReadAt, unit: u64) -> Result<Self> {
        let mut builder = Builder::default();
        builder.add_data(disk, unit, 0..disk.size())?;
        Ok(builder.finish(disk.size().div_ceil(unit)))
    }

    /// All of `units` units.
    #[must_use]
    pub fn full(units: u64) -> Self {
        let mut builder = Builder::default();
        builder.add(0..units);
        builder.finish(units)
    }

    /// The units of `unit` bytes that the ascending `ranges` of bytes touch.
    ///
    /// # Errors
    ///
    /// When a range is an error, or begins before the one before, or goes past `size`.
    pub fn touched(ranges: &mut dyn Iterator<Item = Result<Range<u64>>>, unit: u64, size: u64) -> Result<Self> {
        let mut builder = Builder::default();
        let mut last = 0;
        for range in ranges {
            let range = range?;
            if range.start < last || range.end > size {
                return Err(Error::invalid(format!(
                    "the range {}..{} is not in order or beyond the disk's {size} bytes",
                    range.start, range.end
                )));
            }
            last = range.start;
            if !range.is_empty() {
                builder.add(range.start / unit..range.end.div_ceil(unit));
            }
        }
        Ok(builder.finish(size.div_ceil(unit)))
    }

    /// Those of these units, of `unit` bytes, of which `disk` stores at least a byte.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of).
    pub fn with_data(&self, disk: &dyn ReadAt, unit: u64) -> Result<Self> {
        let mut builder = Builder::default();
        for run in self.runs(0..self.units).filter(|run| run.rank.is_some()) {
            let bytes = run.units.start.saturating_mul(unit)..run.units.end.saturating_mul(unit).min(disk.size());
            builder.add_data(disk, unit, bytes)?;
        }
        Ok(builder.finish(self.units))
    }

    /// The groups of `factor` units in which at least one is stored.
    #[must_use]
    pub fn grouped(&self, factor: u64) -> Self {
        let mut builder = Builder::default();
        for run in self.runs(0..self.units).filter(|run| run.rank.is_some()) {
            builder.add(run.units.start / factor..run.units.end.div_ceil(factor));
        }
        builder.finish(self.units.div_ceil(factor))
    }

    /// How many units are stored.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The stored units before `unit`.
    #[must_use]
    pub fn rank(&self, unit: u64) -> u64 {
        self.chunk(unit).map_or(self.total, |chunk| chunk.rank + chunk.members.before((unit % CHUNK) as u16))
    }

    /// The runs that make up `units`, which may go beyond the disk.
    pub fn runs(&self, units: Range<u64>) -> impl Iterator<Item = UnitRun> + '_ {
        let mut rank = if units.is_empty() { 0 } else { self.rank(units.start) };
        let mut at = units.start;
        std::iter::from_fn(move || {
            if at >= units.end {
                return None;
            }
            let (stored, end) = self.run_end(at);
            let run = UnitRun { units: at..end.min(units.end), rank: stored.then_some(rank) };
            at = run.units.end;
            if stored {
                rank += run.units.end - run.units.start;
            }
            Some(run)
        })
    }

    /// The runs of stored units from that of rank `rank` on.
    pub fn stored_from(&self, rank: u64) -> impl Iterator<Item = (Range<u64>, u64)> + '_ {
        let first = self.nth(rank).unwrap_or(self.units);
        self.runs(first..self.units).filter_map(|run| Some((run.units, run.rank?)))
    }

    /// The unit of rank `rank`; `None` where there are not so many.
    #[must_use]
    pub fn nth(&self, rank: u64) -> Option<u64> {
        if rank >= self.total {
            return None;
        }
        let index = self.chunks.partition_point(|chunk| chunk.rank <= rank).checked_sub(1)?;
        let chunk = self.chunks.get(index)?;
        Some(index as u64 * CHUNK + u64::from(chunk.members.nth(rank - chunk.rank)?))
    }

    /// How many units from `unit` on are not stored: 0 where it is. More may follow.
    #[must_use]
    pub fn absent(&self, unit: u64) -> u64 {
        match self.run_end(unit) {
            (false, end) => end - unit,
            (true, _) => 0,
        }
    }

    /// Whether `unit` is stored, and where a run of the same kind ends (others may follow).
    fn run_end(&self, unit: u64) -> (bool, u64) {
        let Some(chunk) = self.chunk(unit) else { return (false, u64::MAX) };
        let (stored, end) = chunk.members.run_end((unit % CHUNK) as u16);
        let base = unit - unit % CHUNK;
        (stored, base + u64::from(end))
    }

    fn chunk(&self, unit: u64) -> Option<&Chunk> {
        self.chunks.get(usize::try_from(unit / CHUNK).ok()?)
    }
}

impl Members {
    /// Stored units of the chunk before `unit`.
    fn before(&self, unit: u16) -> u64 {
        match self {
            Self::Runs(runs) => {
                runs.iter().take_while(|run| run.0 < unit).map(|run| u64::from(run.1.min(unit - 1) - run.0) + 1).sum()
            }
            Self::Bits(bits) => {
                let (word, bit) = place(unit);
                let whole: u32 = bits.iter().take(word).map(|w| w.count_ones()).sum();
                u64::from(whole + (bits[word] & ((1 << bit) - 1)).count_ones())
            }
        }
    }

    fn nth(&self, mut rank: u64) -> Option<u16> {
        match self {
            Self::Runs(runs) => {
                for (first, last) in runs {
                    let len = u64::from(last - first) + 1;
                    if rank < len {
                        return Some(first + rank as u16);
                    }
                    rank -= len;
                }
            }
            Self::Bits(bits) => {
                for (index, word) in bits.iter().enumerate() {
                    let ones = u64::from(word.count_ones());
                    if rank < ones {
                        let mut word = *word;
                        for _ in 0..rank {
                            word &= word - 1;
                        }
                        return Some((index as u32 * 64 + word.trailing_zeros()) as u16);
                    }
                    rank -= ones;
                }
            }
        }
        None
    }

    /// Whether `unit` is stored, and the end of the units after it that are alike.
    fn run_end(&self, unit: u16) -> (bool, u32) {
        match self {
            Self::Runs(runs) => match runs.get(runs.partition_point(|run| run.1 < unit)) {
                Some((first, last)) if *first <= unit => (true, u32::from(*last) + 1),
                Some((first, _)) => (false, u32::from(*first)),
                None => (false, CHUNK as u32),
            },
            Self::Bits(bits) => {
                let (first, bit) = place(unit);
                let stored = bits[first] >> bit & 1 == 1;
                let mut mask = u64::MAX << bit;
                for (index, word) in bits.iter().enumerate().skip(first) {
                    let other = if stored { !word } else { *word } & mask;
                    if other != 0 {
                        return (stored, index as u32 * 64 + other.trailing_zeros());
                    }
                    mask = u64::MAX;
                }
                (stored, CHUNK as u32)
            }
        }
    }

    /// Add units behind all that are there.
    fn push(&mut self, first: u16, last: u16) {
        match self {
            Self::Runs(runs) => {
                if let Some(run) = runs.last_mut().filter(|run| run.1.checked_add(1) == Some(first)) {
                    run.1 = last;
                } else if runs.len() < RUNS_MAX {
                    runs.push((first, last));
                } else {
                    let mut bits = Box::new([0; WORDS]);
                    for (first, last) in runs.iter().copied().chain([(first, last)]) {
                        set(&mut bits, first, last);
                    }
                    *self = Self::Bits(bits);
                }
            }
            Self::Bits(bits) => set(bits, first, last),
        }
    }
}

/// Word and bit of a unit; the word is below [`WORDS`], whatever the unit.
fn place(unit: u16) -> (usize, u32) {
    (usize::from(unit / 64), u32::from(unit % 64))
}

fn set(bits: &mut [u64; WORDS], first: u16, last: u16) {
    for unit in first..=last {
        let (word, bit) = place(unit);
        bits[word] |= 1 << bit;
    }
}

/// An allocation in the making: units are added in ascending order.
#[derive(Default)]
struct Builder {
    chunks: Vec<Chunk>,
    total: u64,
    /// Units before this are decided.
    next: u64,
}

impl Builder {
    /// Add units; those that are already there may be among them, at the front.
    fn add(&mut self, units: Range<u64>) {
        let mut at = units.start.max(self.next);
        while at < units.end {
            let chunk = self.grow(at / CHUNK + 1);
            let end = units.end.min(at - at % CHUNK + CHUNK);
            if let Some(chunk) = chunk {
                chunk.members.push((at % CHUNK) as u16, ((end - 1) % CHUNK) as u16);
            }
            self.total += end - at;
            at = end;
        }
        self.next = self.next.max(units.end);
    }

    /// Add the units of `unit` bytes that have stored bytes of `disk` in `bytes`.
    fn add_data(&mut self, disk: &dyn ReadAt, unit: u64, bytes: Range<u64>) -> Result<()> {
        let mut at = bytes.start;
        while at < bytes.end {
            let extent = disk.extent_at(at)?.filter(|extent| extent.range.end > at).ok_or_else(|| {
                Error::damaged(format!("byte {at} of the disk is in no extent, though it has {} bytes", disk.size()))
            })?;
            let mut end = extent.range.end.min(bytes.end);
            if extent.kind == ExtentKind::Data {
                let last = end.div_ceil(unit);
                self.add(at / unit..last);
                // The rest of the last unit no longer matters.
                end = last.saturating_mul(unit);
            }
            at = end;
        }
        Ok(())
    }

    /// Have `count` chunks, and give the last.
    fn grow(&mut self, count: u64) -> Option<&mut Chunk> {
        while (self.chunks.len() as u64) < count {
            if let Some(Chunk { members: Members::Runs(runs), .. }) = self.chunks.last_mut() {
                runs.shrink_to_fit();
            }
            self.chunks.push(Chunk { rank: self.total, members: Members::Runs(Vec::new()) });
        }
        self.chunks.last_mut()
    }

    fn finish(mut self, units: u64) -> Allocation {
        self.grow(units.div_ceil(CHUNK));
        self.chunks.shrink_to_fit();
        Allocation { units, total: self.total, chunks: self.chunks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compare every answer with a plain list of the stored units.
    fn check(allocation: &Allocation, stored: &[u64], units: u64) {
        assert_eq!(allocation.total(), stored.len() as u64);
        assert_eq!(allocation.nth(stored.len() as u64), None);
        let mut at = 0;
        let mut listed = Vec::new();
        for run in allocation.runs(0..units + 10) {
            assert_eq!(run.units.start, at);
            at = run.units.end;
            if let Some(rank) = run.rank {
                assert_eq!(rank, listed.len() as u64);
                listed.extend(run.units);
            }
        }
        assert_eq!(at, units + 10);
        assert_eq!(listed, stored);
        for (rank, unit) in stored.iter().enumerate().step_by(997) {
            assert_eq!(allocation.nth(rank as u64), Some(*unit));
            assert_eq!(allocation.rank(*unit), rank as u64);
            assert_eq!(allocation.rank(*unit + 1), rank as u64 + 1);
            let (run, first) = allocation.stored_from(rank as u64).next().unwrap();
            assert_eq!((run.start, first), (*unit, rank as u64));
        }
    }

    fn built(stored: &[u64], units: u64) -> Allocation {
        let mut builder = Builder::default();
        stored.iter().for_each(|unit| builder.add(*unit..*unit + 1));
        builder.finish(units)
    }

    #[test]
    fn runs_and_bits_answer_as_a_plain_list_does() {
        let units = 5 * CHUNK + 17;
        // Each has chunks of runs, of bits, full and empty ones.
        for step in [1, 2, 3, 7, 31, 32, 33, 1000, CHUNK, CHUNK + 1] {
            let stored: Vec<u64> = (step / 2..units).step_by(step as usize).collect();
            check(&built(&stored, units), &stored, units);
        }
        let mixed: Vec<u64> = (0..units).filter(|u| *u > 100 && ((u / CHUNK).is_multiple_of(2) || u % 5 < 2)).collect();
        check(&built(&mixed, units), &mixed, units);
        check(&built(&[], units), &[], units);
        check(&Allocation::full(units), &(0..units).collect::<Vec<_>>(), units);
    }

    #[test]
    fn a_group_is_stored_when_a_unit_of_it_is() {
        let stored: Vec<u64> = (0..3 * CHUNK).filter(|u| u % 1000 < 3).collect();
        let mut groups: Vec<u64> = stored.iter().map(|u| u / 128).collect();
        groups.dedup();
        check(&built(&stored, 3 * CHUNK + 1).grouped(128), &groups, (3 * CHUNK + 1).div_ceil(128));
    }

    #[test]
    fn many_units_are_small() {
        let bytes = |a: &Allocation| {
            let members = a.chunks.iter().map(|chunk| match &chunk.members {
                Members::Runs(runs) => runs.capacity() * size_of::<(u16, u16)>(),
                Members::Bits(bits) => size_of_val(&**bits),
            });
            members.sum::<usize>() + a.chunks.capacity() * size_of::<Chunk>()
        };
        // 64 TiB in clusters of 64 KiB, and a thousand runs.
        let units = 1 << 30;
        let few: Vec<u64> = (0..1000).map(|n| n * 1_000_000).collect();
        assert!(bytes(&built(&few, units)) < 1 << 20);
        assert!(bytes(&Allocation::full(units)) < 1 << 20);
        // The worst: every other cluster. A bit for each and 32 bytes for each chunk.
        let units = 1 << 24;
        let mut worst = Builder::default();
        (0..units).step_by(2).for_each(|unit| worst.add(unit..unit + 1));
        assert!(bytes(&worst.finish(units)) as u64 <= units / 8 + units / CHUNK * 32);
    }
}
