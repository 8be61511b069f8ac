//! File contents in memory: bytes with holes, ranges that fail, reads that block.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use blockdev::{Error, Extent, ExtentKind, MappedRun, ReadAt, Result};
use parking_lot::{Condvar, Mutex};

/// Runs of stored bytes at offsets in ascending order; the rest are holes.
#[derive(Default)]
pub struct Content {
    size: u64,
    runs: Vec<(u64, Vec<u8>)>,
    fails: Vec<Range<u64>>,
    gate: Option<Gate>,
    /// Reads that were asked for.
    pub reads: AtomicU64,
}

/// Reads wait until it opens.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

/// `len` bytes that look like nothing else and differ by `seed`.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl Content {
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let runs = if bytes.is_empty() { vec![] } else { vec![(0, bytes)] };
        Self { size: runs.iter().map(|(_, b)| b.len() as u64).sum(), runs, ..Self::default() }
    }

    pub fn sparse(size: u64, runs: Vec<(u64, Vec<u8>)>) -> Self {
        Self { size, runs, ..Self::default() }
    }

    pub fn failing(mut self, range: Range<u64>) -> Self {
        self.fails.push(range);
        self
    }

    pub fn gated(mut self) -> Self {
        self.gate = Some(Gate::default());
        self
    }

    pub fn open_gate(&self) {
        if let Some(gate) = &self.gate {
            *gate.open.lock() = true;
            gate.changed.notify_all();
        }
    }

    pub fn stored(&self) -> u64 {
        self.runs.iter().map(|(_, b)| b.len() as u64).sum()
    }

    /// The stored bytes in order: what a digest covers.
    pub fn stored_bytes(&self) -> Vec<u8> {
        self.runs.iter().flat_map(|(_, b)| b.iter().copied()).collect()
    }

    pub fn holes(&self) -> bool {
        self.stored() < self.size
    }

    /// All bytes, holes as zeros and failing ranges too.
    pub fn expanded(&self) -> Vec<u8> {
        let mut all = vec![0; self.size as usize];
        self.fill(&mut all, 0);
        for range in &self.fails {
            all[range.start as usize..range.end as usize].fill(0);
        }
        all
    }

    fn fill(&self, buf: &mut [u8], offset: u64) {
        let end = offset + buf.len() as u64;
        for (at, bytes) in &self.runs {
            let (from, to) = ((*at).max(offset), (at + bytes.len() as u64).min(end));
            if from < to {
                buf[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
            }
        }
    }
}

impl ReadAt for Content {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(gate) = &self.gate {
            let mut open = gate.open.lock();
            while !*open {
                gate.changed.wait(&mut open);
            }
        }
        let n = (buf.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        if let Some(bad) = self.fails.iter().find(|r| r.start < offset + n as u64 && r.end > offset) {
            return Err(Error::damaged(format!("Vol-1: block at {} is damaged", bad.start)));
        }
        if !self.runs.iter().any(|(at, b)| *at <= offset && offset + n as u64 <= at + b.len() as u64) {
            buf[..n].fill(0);
        }
        self.fill(&mut buf[..n], offset);
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        for (at, bytes) in &self.runs {
            let end = at + bytes.len() as u64;
            if offset < *at {
                return Ok(Some(Extent { range: offset..*at, kind: ExtentKind::Hole }));
            }
            if offset < end {
                return Ok(Some(Extent { range: offset..end, kind: ExtentKind::Data }));
            }
        }
        Ok(Some(Extent { range: offset..self.size, kind: ExtentKind::Hole }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}
