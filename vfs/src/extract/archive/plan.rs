//! What of a file's content goes into an archive.

use std::ops::Range;

use blockdev::{ExtentKind, ReadAt, Result};

use super::Archive;
use crate::extract::content::Out;

/// Pieces of data that are told apart; what comes after is taken for data.
const PIECES_MAX: usize = 1 << 18;

/// Holes that make a file sparse, in bytes together: fewer are written as zeros.
const HOLES_MIN: u64 = 32 << 10;

/// What is stored of a sparse file begins and ends at multiples of this, in bytes: readers of tar disagree about others.
const BLOCK: u64 = 512;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// How the content of a file is laid down.
pub(super) struct Plan {
    /// Its length in bytes.
    pub size: u64,
    /// Where it has data, in order, without gaps of length 0.
    pub data: Vec<Range<u64>>,
    /// What of it is stored, in the same way: all data, and all or some of the zeros between them.
    pub stored: Vec<Range<u64>>,
    /// Whether holes are left out of what is stored.
    pub is_sparse: bool,
    /// Whether all that is known of its holes is in `data`.
    pub is_exact: bool,
}

impl Plan {
    /// Of `content`, for a format that can keep holes or not.
    pub fn of(content: &dyn ReadAt, keeps_holes: bool) -> Self {
        let size = content.size();
        let mut plan = Self { size, data: Vec::new(), stored: Vec::new(), is_sparse: false, is_exact: true };
        let mut at = 0;
        while at < size {
            let (kind, mut end) = match content.extent_at(at) {
                Ok(Some(extent)) if extent.range.end > at => (extent.kind, extent.range.end.min(size)),
                // Not to be known: reading it will tell.
                _ => (ExtentKind::Data, size),
            };
            if plan.data.len() >= PIECES_MAX {
                (plan.is_exact, end) = (false, size);
            }
            if kind == ExtentKind::Data || !plan.is_exact {
                match plan.data.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => plan.data.push(at..end),
                }
            }
            at = end;
        }
        plan.is_sparse = keeps_holes && size - plan.data_len() >= HOLES_MIN;
        if !plan.is_sparse {
            plan.stored.push(0..size);
            return plan;
        }
        for range in &plan.data {
            let (start, end) = (range.start / BLOCK * BLOCK, range.end.next_multiple_of(BLOCK).min(size));
            match plan.stored.last_mut() {
                Some(last) if start <= last.end => last.end = end,
                _ => plan.stored.push(start..end),
            }
        }
        plan
    }

    /// Bytes of data.
    pub fn data_len(&self) -> u64 {
        len(&self.data)
    }

    /// Bytes that are stored.
    pub fn stored_len(&self) -> u64 {
        len(&self.stored)
    }
}

fn len(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Gives an archive the bytes that a plan stores, in order: zeros for those that do not come.
pub(super) struct Filler<'f> {
    archive: &'f mut dyn Archive,
    plan: &'f Plan,
    /// Bytes of the file that the archive has, or need not have.
    at: u64,
    /// The first stored range that does not end before.
    range: usize,
}

impl<'f> Filler<'f> {
    pub fn new(archive: &'f mut dyn Archive, plan: &'f Plan) -> Self {
        Self { archive, plan, at: 0, range: 0 }
    }

    /// Nothing more comes.
    pub fn end(mut self) -> Result<()> {
        self.fill(self.plan.size)
    }

    /// Zeros up to `to`, where they are stored.
    fn fill(&mut self, to: u64) -> Result<()> {
        while self.at < to {
            let Some(stored) = self.plan.stored.get(self.range) else {
                self.at = to;
                break;
            };
            if stored.end <= self.at {
                self.range += 1;
                continue;
            }
            self.at = self.at.max(stored.start.min(to));
            let mut zeros = stored.end.min(to).saturating_sub(self.at);
            self.at += zeros;
            while zeros > 0 {
                let n = zeros.min(ZEROS.len() as u64);
                self.archive.content(ZEROS.get(..n as usize).unwrap_or_default())?;
                zeros -= n;
            }
        }
        Ok(())
    }
}

impl Out for Filler<'_> {
    fn write(&mut self, bytes: &[u8], at: u64) -> Result<()> {
        self.fill(at)?;
        self.archive.content(bytes)?;
        self.at = at + bytes.len() as u64;
        Ok(())
    }
}
