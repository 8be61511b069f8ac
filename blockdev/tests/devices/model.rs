//! What a written disk must hold: now, and after a crash.
//!
//! The model knows some areas of the disk byte by byte. After a crash each byte may be what the last flush made durable
//! or what any operation since has made of it.

use std::ops::Range;

use blockdev::{ReadAt, WriteAt};

use crate::source::{MIB, SIZE, pattern};

/// Areas at every kind of boundary, together 600 kB.
pub fn areas() -> Vec<Range<u64>> {
    vec![
        0..100_000,
        (32 << 20) - 50_000..(32 << 20) + 50_000,
        500 * MIB + 1000..500 * MIB + 61_000,
        (1 << 30) - 140_000..(1 << 30) + 140_000,
        SIZE - 60_000..SIZE,
    ]
}

#[derive(Debug, Clone)]
pub struct Op {
    area: usize,
    range: Range<u64>,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Write(u64),
    Zero { keep: bool },
    Discard,
}

impl Op {
    pub fn perform(&self, device: &dyn WriteAt) -> blockdev::Result<()> {
        match self.what {
            What::Write(seed) => {
                let mut bytes = vec![0; (self.range.end - self.range.start) as usize];
                pattern(seed, self.range.start, &mut bytes);
                device.write_at(&bytes, self.range.start)
            }
            What::Zero { keep } => device.write_zeroes(self.range.clone(), keep),
            What::Discard => device.discard(self.range.clone()),
        }
    }
}

#[derive(Clone)]
struct Content {
    bytes: Vec<u8>,
    /// Was discarded: may be zero as well.
    or_zero: Vec<bool>,
}

impl Content {
    fn apply(&mut self, op: &Op, start: u64) {
        let range = (op.range.start - start) as usize..(op.range.end - start) as usize;
        let bytes = &mut self.bytes[range.clone()];
        match op.what {
            What::Write(seed) => pattern(seed, op.range.start, bytes),
            What::Zero { .. } => bytes.fill(0),
            What::Discard => {}
        }
        self.or_zero[range].fill(matches!(op.what, What::Discard));
    }
}

struct Area {
    range: Range<u64>,
    now: Content,
    durable: Content,
}

pub struct Model {
    areas: Vec<Area>,
    since: Vec<Op>,
}

impl Model {
    /// Of the `ranges` of `device`, as they are.
    pub fn new(ranges: &[Range<u64>], device: &dyn ReadAt) -> Self {
        let area = |range: &Range<u64>| {
            let bytes = read(device, range);
            let content = Content { or_zero: vec![false; bytes.len()], bytes };
            Area { range: range.clone(), now: content.clone(), durable: content }
        };
        Self { areas: ranges.iter().map(area).collect(), since: Vec::new() }
    }

    /// An operation within one area, of the sizes and alignments that guests and tests like.
    pub fn random_op(&self, random: &mut fastrand::Rng) -> Op {
        let area = random.usize(..self.areas.len());
        let whole = &self.areas[area].range;
        let size = whole.end - whole.start;
        let (mut start, mut len) = match random.u32(..20) {
            0..8 => (whole.start + random.u64(..size), 4096),
            8..14 => (whole.start + random.u64(..size), random.u64(1..10_000)),
            14..18 => (whole.start + random.u64(..size), 512 * random.u64(1..40)),
            18 => (whole.start + random.u64(..size), random.u64(1..size)),
            _ => (whole.start, size),
        };
        if random.u32(..4) != 0 {
            let unit = if random.bool() { 4096 } else { 512 };
            start = start.next_multiple_of(unit).min(whole.end - 1);
            len = len.next_multiple_of(unit);
        }
        let end = whole.end.min(start + len);
        let what = match random.u32(..10) {
            0..7 => What::Write(random.u64(1..)),
            7 | 8 => What::Zero { keep: random.bool() },
            _ => What::Discard,
        };
        Op { area, range: start..end, what }
    }

    /// `op` has been done.
    pub fn apply(&mut self, op: &Op) {
        let area = &mut self.areas[op.area];
        area.now.apply(op, area.range.start);
        self.since.push(op.clone());
    }

    /// `op` has failed: it may have done any part.
    pub fn apply_failed(&mut self, op: &Op, device: &dyn ReadAt) {
        let area = &mut self.areas[op.area];
        let got = read(device, &op.range);
        let mut done = area.now.clone();
        done.apply(op, area.range.start);
        let from = (op.range.start - area.range.start) as usize;
        for (i, got) in (from..).zip(got) {
            let before = area.now.bytes[i] == got || area.now.or_zero[i] && got == 0;
            assert!(before || done.bytes[i] == got, "byte {i} of area {} after a failed {op:?}", op.area);
            area.now.bytes[i] = got;
        }
        self.since.push(op.clone());
    }

    /// A flush has returned.
    pub fn flushed(&mut self) {
        for op in self.since.drain(..) {
            let area = &mut self.areas[op.area];
            area.durable.apply(&op, area.range.start);
        }
    }

    /// All must be as it is now.
    pub fn check(&self, device: &dyn ReadAt, what: &str) {
        for (number, area) in self.areas.iter().enumerate() {
            let got = read(device, &area.range);
            let right = |i: usize| got[i] == area.now.bytes[i] || area.now.or_zero[i] && got[i] == 0;
            if got != area.now.bytes
                && let Some(i) = (0..got.len()).find(|i| !right(*i))
            {
                panic!("{what}: area {number}, byte {} of the disk is {}", area.range.start + i as u64, got[i]);
            }
        }
    }

    /// Each byte must be as the last flush left it, or as something since has made it; go on from there.
    pub fn check_crashed(&mut self, device: &dyn ReadAt, what: &str) {
        for (number, area) in self.areas.iter_mut().enumerate() {
            let got = read(device, &area.range);
            let durable = &area.durable;
            let mut right: Vec<bool> =
                (0..got.len()).map(|i| got[i] == durable.bytes[i] || (durable.or_zero[i] && got[i] == 0)).collect();
            for op in self.since.iter().filter(|op| op.area == number) {
                let from = (op.range.start - area.range.start) as usize;
                let mut made = vec![0; (op.range.end - op.range.start) as usize];
                if let What::Write(seed) = op.what {
                    pattern(seed, op.range.start, &mut made);
                }
                for (i, made) in (from..).zip(made) {
                    right[i] |= got[i] == made;
                }
            }
            if let Some(i) = right.iter().position(|right| !right) {
                let at = area.range.start + i as u64;
                let since: Vec<_> = self.since.iter().filter(|op| op.range.contains(&at)).collect();
                panic!(
                    "{what}: byte {at} of the disk is {}, was {} at the last flush; since then: {since:?}",
                    got[i], durable.bytes[i]
                );
            }
            let content = Content { or_zero: vec![false; got.len()], bytes: got };
            (area.now, area.durable) = (content.clone(), content);
        }
        self.since.clear();
    }
}

pub fn read(device: &dyn ReadAt, range: &Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    assert_eq!(device.read_at(&mut bytes, range.start).unwrap(), bytes.len());
    bytes
}
