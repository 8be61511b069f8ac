//! The clusters of one file.
//!
//! A chain is walked once, when it is opened: that finds loops and ends that come too early before a byte is delivered.
//! What is kept are its runs of neighbours. A chain in very many pieces keeps every second, fourth, ... run of its map,
//! and looks for those between in the table again: memory is bounded, whatever the table says.

use blockdev::{Error, Result};

use super::{
    Heap,
    table::{Cursor, Next, Table},
};

/// Runs that are kept of one chain.
const RUNS_MAX: usize = 8192;

/// Clusters that follow each other, in a file and on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Which cluster of the file the first one is.
    pub index: u32,
    /// The number of the first one.
    pub cluster: u32,
    /// How many, never 0.
    pub len: u32,
}

impl Run {
    /// The part of it from the `index`-th cluster of the file on and before the `end`-th, if it is in it.
    fn part(self, index: u32, end: u32) -> Option<Self> {
        let by = index.checked_sub(self.index).filter(|by| *by < self.len && index < end)?;
        Some(Self { index, cluster: self.cluster + by, len: (self.len - by).min(end - index) })
    }
}

/// How a chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It has all clusters that were asked for, and perhaps more.
    Enough,
    /// With a mark that says so.
    Marked,
    /// In a cluster that belongs to nothing.
    Free,
    /// In a cluster that is marked bad.
    Bad,
    /// With the number of a cluster that does not exist.
    Outside(u32),
    /// In one of its own clusters.
    Loop,
}

/// The clusters of one file, as far as they were asked for.
#[derive(Debug)]
pub struct Chain {
    runs: Vec<Run>,
    /// Clusters that can be read.
    len: u32,
    end: End,
    /// Whether it may end before it has all clusters that were asked for.
    may_end: bool,
    /// The copy of the table that it was read in.
    copy: u8,
}

/// Which chain is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Its first cluster, which exists.
    pub first: u32,
    /// How many clusters of it.
    pub needed: u32,
    /// Whether it may end before.
    pub may_end: bool,
}

impl Chain {
    /// `len` clusters that follow each other without a table saying so.
    pub fn contiguous(first: u32, len: u32) -> Self {
        Self {
            runs: vec![Run { index: 0, cluster: first, len: len.max(1) }],
            len,
            end: End::Enough,
            may_end: false,
            copy: 0,
        }
    }

    /// Walks the chain that is `wanted` until it has as many clusters as needed without a loop among them.
    ///
    /// # Errors
    ///
    /// When the table cannot be read.
    pub fn walk(table: &Table, heap: &Heap, copy: u8, wanted: Wanted) -> Result<Self> {
        let Wanted { first, needed, may_end } = wanted;
        let mut cursor = table.cursor(copy);
        let mut runs = Runs::new(first);
        // A loop is found as Brent does it: the walker meets where it was at the last power of two. One among the first
        // `needed` clusters has been met after three times as many.
        let steps_max = needed.saturating_mul(3);
        let (mut at, mut index) = (first, 0_u32);
        let (mut seen, mut seen_index) = (first, 0_u32);
        let end = loop {
            if index >= steps_max {
                break End::Enough;
            }
            let next = match cursor.next(at)? {
                Next::Cluster(next) if heap.has(next) => next,
                Next::Cluster(next) => break End::Outside(next),
                Next::End => break End::Marked,
                Next::Free => break End::Free,
                Next::Bad => break End::Bad,
            };
            (at, index) = (next, index + 1);
            if at == seen {
                break End::Loop;
            }
            if index.is_power_of_two() {
                (seen, seen_index) = (at, index);
            }
            if index < needed {
                runs.push(at);
            }
        };
        let walked = match end {
            End::Loop => distinct(&mut cursor, first, index - seen_index)?,
            End::Enough => needed,
            _ => index + 1,
        };
        let len = walked.min(needed);
        let end = if walked >= needed { End::Enough } else { end };
        Ok(Self { runs: runs.done(), len, end, may_end, copy })
    }

    /// Bytes of memory that it takes.
    pub const fn bytes(&self) -> usize {
        self.runs.capacity() * size_of::<Run>() + size_of::<Self>()
    }

    /// How many clusters can be read, at most as many as were asked for.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether it ends as it should.
    pub const fn is_good(&self) -> bool {
        match self.end {
            End::Enough => true,
            End::Marked => self.may_end,
            _ => false,
        }
    }

    /// Whether it is to be preferred to what another copy of the table says.
    pub const fn is_better_than(&self, other: &Self) -> bool {
        self.is_good() || self.len > other.len
    }

    /// What is wrong with it behind its last cluster, if something is.
    pub fn damage(&self) -> Option<Error> {
        (!self.is_good()).then(|| self.broken(&self.why()))
    }

    /// The error for what would come after the end.
    fn broken(&self, how: &str) -> Error {
        let first = self.runs.first().map_or(0, |run| run.cluster);
        Error::damaged(format!("the chain of clusters from cluster {first} on {how} after {} clusters", self.len))
    }

    fn why(&self) -> String {
        match self.end {
            End::Enough | End::Marked => "ends".to_owned(),
            End::Free => "leads to a free cluster".to_owned(),
            End::Bad => "leads to a bad cluster".to_owned(),
            End::Outside(number) => format!("leads to cluster {number}, which does not exist,"),
            End::Loop => "comes back to itself".to_owned(),
        }
    }

    /// See [`Clusters::run_at`](super::Clusters::run_at).
    pub fn run_at(&self, table: &Table, heap: &Heap, index: u32, hint: Option<Run>) -> Result<Run> {
        if index >= self.len {
            return Err(self.broken(&self.why()));
        }
        if let Some(run) = hint.and_then(|hint| hint.part(index, self.len)) {
            return Ok(run);
        }
        let before = self.runs.partition_point(|run| run.index <= index).checked_sub(1);
        let kept = before.and_then(|i| self.runs.get(i)).copied();
        let kept = kept.ok_or_else(|| self.broken("has no first run"))?;
        if let Some(run) = kept.part(index, self.len) {
            return Ok(run);
        }
        // Runs were left out here: from the nearest one that is known, the table is asked.
        let mut run = hint.filter(|hint| hint.index > kept.index && hint.index <= index).unwrap_or(kept);
        let mut cursor = table.cursor(self.copy);
        loop {
            let (at, last) = (run.index + run.len, run.cluster + (run.len - 1));
            // At the end of the chain nothing more has to be looked up.
            let next = if at < self.len { Some(self.next_of(&mut cursor, heap, last)?) } else { None };
            if next == last.checked_add(1) {
                run.len += 1;
            } else if let Some(found) = run.part(index, self.len) {
                return Ok(found);
            } else {
                let cluster = next.ok_or_else(|| self.broken("ends"))?;
                run = Run { index: at, cluster, len: 1 };
            }
        }
    }

    /// The cluster after `cluster`, which was there when the chain was walked.
    fn next_of(&self, cursor: &mut Cursor<'_>, heap: &Heap, cluster: u32) -> Result<u32> {
        match cursor.next(cluster)? {
            Next::Cluster(next) if heap.has(next) => Ok(next),
            _ => Err(changed()),
        }
    }
}

/// How many clusters come before one that was there already, in a chain that has a loop of `period` clusters.
fn distinct(cursor: &mut Cursor<'_>, first: u32, period: u32) -> Result<u32> {
    // Two walkers that are one round apart meet where the loop is entered.
    let mut ahead = first;
    for _ in 0..period {
        ahead = step(cursor, ahead)?;
    }
    let (mut behind, mut before) = (first, 0_u32);
    while behind != ahead {
        (behind, ahead) = (step(cursor, behind)?, step(cursor, ahead)?);
        before = before.saturating_add(1);
    }
    Ok(before.saturating_add(period))
}

fn step(cursor: &mut Cursor<'_>, cluster: u32) -> Result<u32> {
    match cursor.next(cluster)? {
        Next::Cluster(next) => Ok(next),
        _ => Err(changed()),
    }
}

fn changed() -> Error {
    Error::damaged("the file allocation table changed while it was read: the disk gives different bytes")
}

/// Runs as they are found, of which every `every`-th is kept.
struct Runs {
    kept: Vec<Run>,
    last: Run,
    every: u32,
    /// Runs before `last`.
    count: u32,
}

impl Runs {
    fn new(first: u32) -> Self {
        Self { kept: Vec::new(), last: Run { index: 0, cluster: first, len: 1 }, every: 1, count: 0 }
    }

    fn push(&mut self, cluster: u32) {
        if cluster.checked_sub(self.last.cluster) == Some(self.last.len) {
            self.last.len += 1;
            return;
        }
        self.keep();
        self.last = Run { index: self.last.index + self.last.len, cluster, len: 1 };
    }

    fn keep(&mut self) {
        if self.count.is_multiple_of(self.every) {
            if self.kept.len() >= RUNS_MAX {
                let mut number = 0_u32;
                self.kept.retain(|_| {
                    number += 1;
                    !number.is_multiple_of(2)
                });
                self.every = self.every.saturating_mul(2);
            }
            if self.count.is_multiple_of(self.every) {
                self.kept.push(self.last);
            }
        }
        self.count += 1;
    }

    fn done(mut self) -> Vec<Run> {
        self.keep();
        self.kept.shrink_to_fit();
        self.kept
    }
}
