//! Where a session's blocks are: block number to volume and address.
//!
//! Block numbers are dense within a session and go on over volumes, so a place in a job's data is a block number
//! and an offset, independent of volumes, interleaved jobs and gaps. The map is kept as runs of blocks of equal
//! length that follow each other in one volume; the last block of a run may be shorter.

use std::collections::BTreeMap;

use crate::{layout::clock::ShortBlock, medium::Address};

/// A volume, by its position in the archive's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeIndex(pub u32);

/// A block's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    /// The volume.
    pub volume: VolumeIndex,
    /// Its address there.
    pub address: Address,
    /// Its length in bytes, header included.
    pub len: u32,
}

/// Blocks that follow each other in one volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of the first block.
    pub first: u32,
    /// How many blocks.
    pub count: u32,
    /// The volume.
    pub volume: VolumeIndex,
    /// Address of the first block.
    pub address: Address,
    /// Length of every block but the last.
    pub stride: u32,
    /// Length of the last block.
    pub last_len: u32,
}

impl Run {
    fn end_address(&self) -> Address {
        self.address + u64::from(self.count - 1) * u64::from(self.stride) + u64::from(self.last_len)
    }

    const fn end(&self) -> u64 {
        self.first as u64 + self.count as u64
    }

    fn place(&self, number: u32) -> BlockPlace {
        let k = number - self.first;
        let len = if k + 1 == self.count { self.last_len } else { self.stride };
        BlockPlace { volume: self.volume, address: self.address + u64::from(k) * u64::from(self.stride), len }
    }
}

/// The map of one session.
#[derive(Debug, Clone, Default)]
pub struct BlockMap {
    runs: BTreeMap<u32, Run>,
}

impl BlockMap {
    /// Add a block. A number that is there already keeps its first place.
    pub fn push(&mut self, number: u32, place: BlockPlace) {
        if self.get(number).is_some() {
            return;
        }
        if let Some((_, run)) = self.runs.range_mut(..number).next_back() {
            let follows =
                run.end() == u64::from(number) && run.volume == place.volume && run.end_address() == place.address;
            if follows && run.last_len == run.stride && place.len <= run.stride {
                run.count += 1;
                run.last_len = place.len;
                return;
            }
        }
        let BlockPlace { volume, address, len } = place;
        self.runs.insert(number, Run { first: number, count: 1, volume, address, stride: len, last_len: len });
    }

    /// Add `count` blocks of `len` bytes that follow each other from `place` on, except those in `shorts` (by
    /// their distance from the first), which are shorter.
    pub fn push_span(&mut self, first: u32, count: u32, place: BlockPlace, shorts: impl Iterator<Item = ShortBlock>) {
        let (mut number, mut address) = (u64::from(first), place.address);
        let end = u64::from(first) + u64::from(count);
        let ends = shorts.map(|s| (u64::from(first) + s.blocks + 1, s.len)).chain([(end, place.len)]);
        for (stop, last_len) in ends {
            let Some(n) = u32::try_from(stop.saturating_sub(number)).ok().filter(|n| *n > 0) else { continue };
            let run =
                Run { first: number as u32, count: n, volume: place.volume, address, stride: place.len, last_len };
            address = run.end_address();
            number = stop;
            self.push_run(run);
        }
    }

    /// Add a run whose numbers are not in the map yet; it is joined to the run before it where it fits.
    pub fn push_run(&mut self, run: Run) {
        if let Some((_, before)) = self.runs.range_mut(..run.first).next_back() {
            let follows = before.end() == u64::from(run.first)
                && before.volume == run.volume
                && before.end_address() == run.address;
            if follows
                && before.last_len == before.stride
                && (run.stride == before.stride || run.count == 1)
                && run.last_len <= before.stride
            {
                before.count += run.count;
                before.last_len = run.last_len;
                return;
            }
        }
        self.runs.insert(run.first, run);
    }

    /// Where block `number` is.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<BlockPlace> {
        let (_, run) = self.runs.range(..=number).next_back()?;
        (u64::from(number) < run.end()).then(|| run.place(number))
    }

    /// Number and place of the last block before `number`.
    #[must_use]
    pub fn before(&self, number: u32) -> Option<(u32, BlockPlace)> {
        let (_, run) = self.runs.range(..number).next_back()?;
        let last = (run.end() - 1).min(u64::from(number) - 1) as u32;
        Some((last, run.place(last)))
    }

    /// Number and place of the first block at or after `number`.
    #[must_use]
    pub fn at_or_after(&self, number: u32) -> Option<(u32, BlockPlace)> {
        self.get(number).map(|p| (number, p)).or_else(|| {
            let (first, run) = self.runs.range(number..).next()?;
            Some((*first, run.place(*first)))
        })
    }

    /// Take over the runs of another map of the same session (from another volume).
    pub fn merge(&mut self, other: &Self) {
        for run in other.runs.values() {
            if self.runs.range(..run.first).next_back().is_none_or(|(_, r)| r.end() <= u64::from(run.first)) {
                self.push_run(*run);
            }
        }
    }

    /// The runs, by block number.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// The block numbers that are missing between the first and the last.
    pub fn gaps(&self) -> impl Iterator<Item = std::ops::Range<u32>> + '_ {
        let mut runs = self.runs.values();
        let mut end = runs.next().map(Run::end);
        runs.filter_map(move |run| {
            let gap = end.replace(run.end()).map(|e| e as u32..run.first)?;
            (!gap.is_empty()).then_some(gap)
        })
    }

    /// Number behind the last block.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.runs.values().next_back().map_or(0, Run::end)
    }

    /// Whether there is no block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes of all blocks.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.values().map(|r| r.end_address() - r.address).sum()
    }

    /// The length of full blocks: the one that most of the blocks have. Short blocks are rare, and a length that
    /// damage made up stands alone.
    #[must_use]
    pub fn full_block_len(&self) -> u32 {
        let mut blocks: BTreeMap<u32, u64> = BTreeMap::new();
        for run in self.runs.values() {
            *blocks.entry(run.stride).or_default() += u64::from(run.count);
            // With few different lengths nothing more is learnt from the rest of a long job.
            if blocks.len() == 1 && blocks.values().all(|n| *n > 1000) {
                break;
            }
        }
        blocks.into_iter().max_by_key(|(len, n)| (*n, *len)).map_or(0, |(len, _)| len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: VolumeIndex = VolumeIndex(0);

    #[test]
    fn blocks_of_one_stride_are_one_run_and_a_short_one_ends_it() {
        let mut map = BlockMap::default();
        let mut address = 200;
        for (number, len) in [(1, 100), (2, 100), (3, 95), (4, 100), (5, 100), (9, 100)] {
            map.push(number, BlockPlace { volume: V, address, len });
            address += u64::from(len);
        }
        assert_eq!(map.runs().count(), 3);
        assert_eq!(map.get(3), Some(BlockPlace { volume: V, address: 400, len: 95 }));
        assert_eq!(map.get(4).unwrap().address, 495);
        assert_eq!(map.get(6), None);
        assert_eq!(map.gaps().collect::<Vec<_>>(), vec![6..9]);
        assert_eq!(map.before(9).unwrap().0, 5);
        assert_eq!(map.at_or_after(6).unwrap().0, 9);
        assert_eq!(map.bytes(), 595);
    }

    #[test]
    fn a_span_with_short_blocks_equals_the_blocks_one_by_one() {
        let shorts = [ShortBlock { blocks: 3, len: 93 }, ShortBlock { blocks: 7, len: 99 }];
        let (mut one_by_one, mut span) = (BlockMap::default(), BlockMap::default());
        let mut address = 50;
        for k in 0..10 {
            let len = shorts.iter().find(|s| s.blocks == k).map_or(100, |s| s.len);
            one_by_one.push(5 + k as u32, BlockPlace { volume: V, address, len });
            address += u64::from(len);
        }
        let start = BlockPlace { volume: V, address: 50, len: 100 };
        span.push_span(5, 10, start, shorts.into_iter());
        assert_eq!(span.runs().collect::<Vec<_>>(), one_by_one.runs().collect::<Vec<_>>());
    }
}
