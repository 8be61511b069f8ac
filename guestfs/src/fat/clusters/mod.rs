//! Clusters: where they are, which ones a file has, and its content as a map to them.
//!
//! * `table`: the file allocation table, a number for each cluster;
//! * `chain`: the clusters of one file, walked once and kept as runs;
//! * `content`: a [`Layer`](blockdev::images::layer::Layer) over a chain.
//!
//! [`Clusters`] is all of it for one volume.

mod chain;
mod content;
mod table;

use std::sync::Arc;

use blockdev::{BlockDevice, Error, Result};
use quick_cache::{Weighter, sync::Cache};

pub use self::{
    chain::{Chain, Run, Wanted},
    content::Content,
    table::{Layout, Table, Width},
};

/// Bound of the chains that are kept, in bytes; one has at most a tenth of a MiB.
const CHAINS_MAX: u64 = 4 << 20;

/// Entries that the cache of chains is made for: few, so that its shards have room for the longest chain.
const CHAINS_EXPECTED: usize = 64;

/// Where the clusters of a volume are: `count` ones of `size` bytes each, the first of which has the number 2.
#[derive(Debug, Clone, Copy)]
pub struct Heap {
    /// Byte of the volume at which cluster 2 is.
    pub start: u64,
    /// Bytes of a cluster.
    pub size: u32,
    /// How many there are; at most `u32::MAX - 10`, so that all numbers fit.
    pub count: u32,
}

impl Heap {
    /// Whether there is a cluster `number`.
    pub const fn has(&self, number: u32) -> bool {
        number >= 2 && number - 2 < self.count
    }

    /// The byte of the volume at which cluster `number` is, if there is such a one.
    pub fn place(&self, number: u32) -> Option<u64> {
        if !self.has(number) {
            return None;
        }
        (u64::from(number - 2)).checked_mul(self.size.into())?.checked_add(self.start)
    }

    /// The cluster that byte `place` of the volume is in, and how far in it.
    pub fn cluster_of(&self, place: u64) -> Option<(u32, u32)> {
        let past = place.checked_sub(self.start)?;
        let number = u32::try_from(past / u64::from(self.size)).ok()?.checked_add(2)?;
        self.has(number).then_some((number, (past % u64::from(self.size)) as u32))
    }

    /// How many clusters `bytes` need.
    pub fn needed(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.size.into())
    }
}

/// The clusters of a volume and the chains that were walked.
pub struct Clusters {
    heap: Heap,
    table: Table,
    kept: Cache<Wanted, Arc<Chain>, ByBytes>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Wanted, Arc<Chain>> for ByBytes {
    fn weight(&self, _: &Wanted, chain: &Arc<Chain>) -> u64 {
        chain.bytes() as u64 + 128
    }
}

impl Clusters {
    /// Those of `heap`, chained by `table`.
    pub fn new(heap: Heap, table: Table) -> Self {
        Self { heap, table, kept: Cache::with_weighter(CHAINS_EXPECTED, CHAINS_MAX, ByBytes) }
    }

    /// Where they are.
    pub const fn heap(&self) -> &Heap {
        &self.heap
    }

    /// What says which follows which.
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// The volume.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        self.table.device()
    }

    /// The chain that begins with cluster `first` and should have `needed` clusters, as far as those.
    ///
    /// A chain that ends early or is damaged is looked for in the second table, where there is one that should be
    /// alike, and the better one is taken. What is wrong with that is said when the place is read.
    ///
    /// # Errors
    ///
    /// When there is no such cluster or the table cannot be read; `Damaged` when more is needed than the volume has.
    pub fn chain(&self, first: u32, needed: u64) -> Result<Arc<Chain>> {
        self.best(Wanted { first, needed: self.bounded(first, needed)?, may_end: false })
    }

    /// The chain that begins with cluster `first`, as far as the mark at its end, at most `max` clusters.
    ///
    /// # Errors
    ///
    /// As [`chain`](Self::chain).
    pub fn chain_to_end(&self, first: u32, max: u64) -> Result<Arc<Chain>> {
        let needed = self.bounded(first, max.min(self.heap.count.into()))?;
        self.best(Wanted { first, needed, may_end: true })
    }

    fn best(&self, wanted: Wanted) -> Result<Arc<Chain>> {
        self.kept.get_or_insert_with(&wanted, || {
            let walk = |copy| Chain::walk(&self.table, &self.heap, copy, wanted);
            let mut best = walk(self.table.first_copy());
            if !best.as_ref().is_ok_and(Chain::is_good)
                && let Some(Ok(other)) = self.table.other_copy().map(walk)
                && best.as_ref().map_or(true, |best| other.is_better_than(best))
            {
                best = Ok(other);
            }
            best.map(Arc::new)
        })
    }

    /// `needed` clusters that follow each other, beginning with `first`.
    ///
    /// # Errors
    ///
    /// `Damaged` when the volume has not as many.
    pub fn contiguous(&self, first: u32, needed: u64) -> Result<Arc<Chain>> {
        let needed = self.bounded(first, needed)?;
        if needed > self.heap.count - (first - 2) {
            let of = format!("{needed} clusters from cluster {first} on would lie behind the end of the volume");
            return Err(Error::damaged(of));
        }
        Ok(Arc::new(Chain::contiguous(first, needed)))
    }

    /// `needed` as a number that the volume can have from `first` on.
    fn bounded(&self, first: u32, needed: u64) -> Result<u32> {
        if !self.heap.has(first) {
            let of = format!("content begins at cluster {first}; the volume has clusters 2 to {}", self.heap.count + 1);
            return Err(Error::damaged(of));
        }
        u32::try_from(needed).ok().filter(|n| *n <= self.heap.count).ok_or_else(|| {
            Error::damaged(format!("content at cluster {first} has {needed} clusters: more than the volume"))
        })
    }

    /// The clusters of `chain` from its `index`-th on that follow each other, as far as is known without long search.
    /// `hint` is what the last call gave: reading on from there is cheap.
    ///
    /// # Errors
    ///
    /// Where the chain ends before `index`, or the table cannot be read.
    pub fn run_at(&self, chain: &Chain, index: u32, hint: Option<Run>) -> Result<Run> {
        chain.run_at(&self.table, &self.heap, index, hint)
    }
}

#[cfg(test)]
mod tests {
    use blockdev::{BlockSizes, images::Disk};

    use super::*;
    use crate::inline::Inline;

    /// `bytes` as a volume.
    pub fn volume(bytes: Vec<u8>) -> Arc<dyn BlockDevice> {
        let size = bytes.len() as u64;
        Arc::new(Disk::new(vec![Arc::new(Inline::new(bytes, size))], BlockSizes::CLASSIC).unwrap())
    }

    /// Clusters whose tables are `copies`, entries of 32 bits from that of cluster 2 on.
    fn clusters(copies: &[&[u32]]) -> Clusters {
        let count = copies[0].len() as u32;
        let table: Vec<u8> =
            copies.iter().flat_map(|c| [0, 0].iter().chain(*c)).flat_map(|e| e.to_le_bytes()).collect();
        let len = table.len() as u64 / copies.len() as u64;
        let other = (copies.len() > 1).then_some(1);
        let layout = Layout { width: Width::Fat32, start: 0, len, entries: count + 2, first: 0, other };
        Clusters::new(Heap { start: 1 << 20, size: 512, count }, Table::new(volume(table), layout))
    }

    /// All clusters of `chain`, found run by run.
    fn all(clusters: &Clusters, chain: &Chain, with_hint: bool) -> Vec<u32> {
        let (mut found, mut hint) = (Vec::new(), None);
        while (found.len() as u32) < chain.len() {
            let run = clusters.run_at(chain, found.len() as u32, hint).unwrap();
            assert_eq!(run.index, found.len() as u32);
            found.extend(run.cluster..run.cluster + run.len);
            hint = with_hint.then_some(run);
        }
        found
    }

    const END: u32 = 0x0fff_ffff;

    #[test]
    fn neighbours_are_one_run() {
        let clusters = clusters(&[&[3, 4, 6, END, 5]]);
        let chain = clusters.chain_to_end(2, 100).unwrap();
        assert_eq!(clusters.run_at(&chain, 0, None).unwrap(), Run { index: 0, cluster: 2, len: 3 });
        assert_eq!(all(&clusters, &chain, false), [2, 3, 4, 6, 5]);
        assert!(chain.is_good() && chain.damage().is_none());
    }

    #[test]
    fn loops_are_found_and_what_is_before_them_is_read() {
        // 2 3 4 5 6 7, and then again 4.
        let clusters = clusters(&[&[3, 4, 5, 6, 7, 4, END]]);
        for needed in 1..=7 {
            let chain = clusters.chain(2, needed).unwrap();
            assert_eq!(u64::from(chain.len()), needed.min(6), "{needed} needed");
            assert_eq!(chain.is_good(), needed <= 6);
            assert_eq!(all(&clusters, &chain, false), (2..2 + chain.len()).collect::<Vec<_>>());
        }
        let chain = clusters.chain_to_end(2, 7).unwrap();
        assert!(chain.damage().unwrap().to_string().contains("comes back to itself after 6 clusters"));
        assert!(clusters.run_at(&chain, 6, None).is_err());
    }

    #[test]
    fn a_damaged_chain_is_read_in_the_second_table() {
        for broken in [0, 1, 77, 0x0fff_fff7, END] {
            let clusters = clusters(&[&[3, broken, END], &[3, 4, END]]);
            let chain = clusters.chain(2, 3).unwrap();
            assert_eq!(all(&clusters, &chain, false), [2, 3, 4], "{broken:x}");
        }
        let both = clusters(&[&[3, 0, END], &[0, 4, END]]);
        let chain = both.chain(2, 3).unwrap();
        assert_eq!(chain.len(), 2);
        assert!(both.run_at(&chain, 2, None).unwrap_err().to_string().contains("leads to a free cluster after 2"));
    }

    #[test]
    fn a_chain_in_very_many_pieces_takes_bounded_memory() {
        // Every cluster is followed by the one after next, then come those in between.
        let count = 200_000;
        let mut table: Vec<u32> = (2..2 + count).map(|c| c + 2).collect();
        table[count as usize - 2] = 3;
        table[count as usize - 1] = END;
        let clusters = clusters(&[&table]);
        let chain = clusters.chain_to_end(2, count.into()).unwrap();
        assert_eq!(chain.len(), count);
        assert!(chain.bytes() < 128 << 10, "{}", chain.bytes());
        let wanted: Vec<u32> = (2..2 + count).step_by(2).chain((3..2 + count).step_by(2)).collect();
        assert!(all(&clusters, &chain, true) == wanted);
        for index in (0..count).step_by(997) {
            let run = clusters.run_at(&chain, index, None).unwrap();
            assert_eq!((run.cluster, run.len), (wanted[index as usize], 1));
        }
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let clusters = clusters(&[&[END, END]]);
        for first in [0, 1, 4, u32::MAX] {
            assert!(clusters.chain(first, 1).is_err());
            assert!(clusters.contiguous(first, 1).is_err());
        }
        assert!(clusters.chain(2, 3).is_err());
        assert!(clusters.contiguous(3, 2).is_err());
        assert!(clusters.contiguous(2, 2).is_ok());
    }
}
