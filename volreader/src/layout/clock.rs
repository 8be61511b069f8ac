//! The arithmetic of equal records in a session's blocks.
//!
//! Packing (bacula-volume-format, section 3): a record header takes 12 bytes; where fewer are left in the block,
//! the block ends short and the header opens the next one; a record that goes over the end of a block costs 12
//! more bytes for a continuation header in each further block. The state after a record is only the offset in
//! the block, so for records of equal length the sequence of offsets runs into a cycle. A [`Clock`] holds that
//! cycle once and then answers for any record in constant time.

use crate::record::HEADER_LEN;

/// Runs of up to this many records are computed as they are.
const SHORT_RUN: u64 = 256;

/// Block size and header length of a session's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Length of a full block in bytes.
    pub block_len: u32,
    /// Length of the block header in bytes.
    pub header_len: u32,
}

/// A run of records of one length, by where its first header stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// The blocks.
    pub geometry: Geometry,
    /// Payload bytes of each record.
    pub record_len: u32,
    /// Offset of the first record's header in its block.
    pub offset: u32,
}

/// The place of a record header, relative to the block of the run's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Blocks further on in the session.
    pub blocks: u64,
    /// Bytes further on, when all those blocks follow each other in one volume.
    pub bytes: u64,
    /// Offset of the header in its block.
    pub offset: u32,
}

/// A block that ends early because no record header fitted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortBlock {
    /// Blocks after the block of the run's first header.
    pub blocks: u64,
    /// Its length in bytes.
    pub len: u32,
}

/// The precomputed cycle of a [`Run`].
#[derive(Debug)]
pub struct Clock {
    run: Run,
    ticks: Vec<Tick>,
    shorts: Vec<ShortBlock>,
    cycle: Option<Cycle>,
}

#[derive(Debug)]
struct Cycle {
    first: u64,
    ticks: u64,
    blocks: u64,
    bytes: u64,
    /// Index of the first short block inside the cycle.
    first_short: usize,
}

impl Clock {
    /// Compute the cycle, or as much of it as `records` records need. `None` for a geometry in which no record
    /// can be written.
    #[must_use]
    pub fn new(run: Run, records: u64) -> Option<Self> {
        let Geometry { block_len, header_len } = run.geometry;
        let capacity = block_len.checked_sub(header_len)?.checked_sub(HEADER_LEN).filter(|c| *c > 0)?;
        let valid = run.offset >= header_len && run.offset.checked_add(HEADER_LEN)? <= block_len && run.record_len > 0;
        if !valid {
            return None;
        }
        // For a few records looking for the cycle would cost more than computing them.
        let mut seen = if records > SHORT_RUN { vec![u32::MAX; (block_len - header_len) as usize] } else { Vec::new() };
        let mut clock = Self { run, ticks: Vec::new(), shorts: Vec::new(), cycle: None };
        let mut tick = Tick { blocks: 0, bytes: 0, offset: run.offset };
        loop {
            let mut unseen = u32::MAX;
            let state = seen.get_mut((tick.offset - header_len) as usize).unwrap_or(&mut unseen);
            if *state != u32::MAX {
                let first = &clock.ticks[*state as usize];
                clock.cycle = Some(Cycle {
                    first: u64::from(*state),
                    ticks: clock.ticks.len() as u64 - u64::from(*state),
                    blocks: tick.blocks - first.blocks,
                    bytes: tick.bytes - first.bytes,
                    first_short: clock.shorts.partition_point(|s| s.blocks < first.blocks),
                });
                return Some(clock);
            }
            *state = clock.ticks.len() as u32;
            clock.ticks.push(tick);
            if clock.ticks.len() as u64 > records {
                return Some(clock);
            }
            tick = clock.step(tick, capacity);
        }
    }

    fn step(&mut self, from: Tick, capacity: u32) -> Tick {
        let Geometry { block_len, header_len } = self.run.geometry;
        let mut tick = from;
        let start = tick.offset + HEADER_LEN;
        let here = block_len - start;
        if self.run.record_len <= here {
            tick.offset = start + self.run.record_len;
        } else {
            let rest = self.run.record_len - here;
            let more = rest.div_ceil(capacity);
            tick.blocks += u64::from(more);
            tick.bytes += u64::from(more) * u64::from(block_len);
            tick.offset = header_len + HEADER_LEN + (rest - (more - 1) * capacity);
        }
        if block_len - tick.offset < HEADER_LEN {
            if tick.offset < block_len {
                self.shorts.push(ShortBlock { blocks: tick.blocks, len: tick.offset });
            }
            tick.blocks += 1;
            tick.bytes += u64::from(tick.offset);
            tick.offset = header_len;
        }
        tick
    }

    /// The run.
    #[must_use]
    pub const fn run(&self) -> &Run {
        &self.run
    }

    /// Where the header of record `n` stands (`n` = number of records: where the next header would).
    ///
    /// `None` only beyond the number of records the clock was made for.
    #[must_use]
    pub fn at(&self, n: u64) -> Option<Tick> {
        let Some(cycle) = self.cycle.as_ref().filter(|c| n >= c.first) else {
            return usize::try_from(n).ok().and_then(|n| self.ticks.get(n)).copied();
        };
        let rounds = (n - cycle.first) / cycle.ticks;
        let tick = self.ticks[(cycle.first + (n - cycle.first) % cycle.ticks) as usize];
        Some(Tick {
            blocks: tick.blocks.checked_add(rounds.checked_mul(cycle.blocks)?)?,
            bytes: tick.bytes.checked_add(rounds.checked_mul(cycle.bytes)?)?,
            offset: tick.offset,
        })
    }

    /// The largest `n` up to `limit` whose header stands at most `bytes` behind the first block's start.
    #[must_use]
    pub fn last_within(&self, bytes: u64, limit: u64) -> u64 {
        let (mut low, mut high) = (0, limit);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            match self.at(middle) {
                Some(tick) if tick.bytes <= bytes => low = middle,
                _ => high = middle - 1,
            }
        }
        low
    }

    /// The blocks before block `blocks` that end early, in order.
    pub fn shorts_before(&self, blocks: u64) -> impl Iterator<Item = ShortBlock> + '_ {
        let (prelude, round, length) = match &self.cycle {
            Some(c) if c.first_short < self.shorts.len() && c.blocks > 0 => (c.first_short, c.first_short, c.blocks),
            _ => (self.shorts.len(), self.shorts.len(), 0),
        };
        let cycle = &self.shorts[round..];
        let rounds = (0u64..).take_while(move |_| !cycle.is_empty()).flat_map(move |k| {
            cycle
                .iter()
                .map(move |s| ShortBlock { blocks: s.blocks.saturating_add(k.saturating_mul(length)), len: s.len })
        });
        self.shorts[..prelude].iter().copied().chain(rounds).take_while(move |s| s.blocks < blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules written down record by record and byte by byte, as the Storage daemon follows them.
    fn simulate(run: Run, n: u64) -> (Tick, Vec<ShortBlock>) {
        let (b, h) = (u64::from(run.geometry.block_len), u64::from(run.geometry.header_len));
        let (mut block, mut bytes, mut p, mut shorts) = (0u64, 0u64, u64::from(run.offset), vec![]);
        for _ in 0..n {
            p += 12;
            let mut left = u64::from(run.record_len);
            loop {
                let part = left.min(b - p);
                p += part;
                left -= part;
                if left == 0 {
                    break;
                }
                (block, bytes, p) = (block + 1, bytes + b, h + 12);
            }
            if b - p < 12 {
                if p < b {
                    shorts.push(ShortBlock { blocks: block, len: p as u32 });
                }
                (block, bytes, p) = (block + 1, bytes + p, h);
            }
        }
        (Tick { blocks: block, bytes, offset: p as u32 }, shorts)
    }

    #[test]
    fn agrees_with_the_rules_for_many_geometries() {
        let sizes = [(64512, 24), (64512, 32), (512, 24), (1024, 32), (32768, 24), (200_704, 24), (100, 24)];
        for (block_len, header_len) in sizes {
            let short = Run { geometry: Geometry { block_len, header_len }, record_len: 488, offset: header_len };
            assert_eq!(Clock::new(short, 200).unwrap().at(200), Some(simulate(short, 200).0));
            for record_len in [65536, 65528, 1, 11, 12, 13, 64, 488, 64476] {
                for offset in [header_len, header_len + 1, block_len - 12, block_len / 2] {
                    let run = Run { geometry: Geometry { block_len, header_len }, record_len, offset };
                    let clock = Clock::new(run, u64::MAX).unwrap();
                    for n in [0, 1, 2, 3, 59, 60, 61, 1000, 20_001] {
                        let (tick, shorts) = simulate(run, n);
                        assert_eq!(clock.at(n), Some(tick), "{run:?} record {n}");
                        let got: Vec<_> = clock.shorts_before(tick.blocks).collect();
                        assert_eq!(got, shorts, "{run:?} record {n}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_clock_for_few_records_does_not_compute_more() {
        let run = Run { geometry: Geometry { block_len: 64512, header_len: 24 }, record_len: 65536, offset: 24 };
        let clock = Clock::new(run, 10).unwrap();
        assert_eq!(clock.ticks.len(), 11);
        assert_eq!(clock.at(11), None);
        assert!(clock.at(10).is_some());
    }

    #[test]
    fn impossible_geometries_are_refused() {
        let run = |block_len, offset| Run { geometry: Geometry { block_len, header_len: 24 }, record_len: 5, offset };
        assert!(Clock::new(run(36, 24), 1).is_none());
        assert!(Clock::new(run(20, 24), 1).is_none());
        assert!(Clock::new(run(512, 501), 1).is_none());
        assert!(Clock::new(run(512, u32::MAX), 1).is_none());
    }
}
