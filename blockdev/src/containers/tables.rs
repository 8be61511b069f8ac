//! Allocation tables of containers: every entry is worked out when it is read.
//!
//! The tables of a disk of many terabytes can be gigabytes. None is ever held; reading a part of one fills the
//! caller's buffer with the entries that are in it.

use std::sync::Arc;

use super::{allocation::Allocation, sections::readable};
use crate::{Error, Extent, ExtentKind, MappedRun, ReadAt, Result};

/// Fewer bytes of zeros in a table are no hole: nobody could leave them out.
const HOLE_MIN: u64 = 4096;

/// How far an extent of a table is followed, in bytes.
const EXTENT_MAX: u64 = 1 << 20;

/// Entries of `W` bytes.
pub trait Entries<const W: usize>: Send + Sync {
    /// How many there are.
    fn count(&self) -> u64;

    /// Fill `out`, whose length is a multiple of `W`, with the entries from `first` on, all of which exist.
    fn fill(&self, first: u64, out: &mut [u8]);

    /// How many entries from `first` on are certainly zero: 0 where that is not known.
    fn zeros(&self, first: u64) -> u64;
}

/// A table as a part of a file.
pub struct Table<const W: usize, E>(pub E);

impl<const W: usize, E: Entries<W>> Table<W, E> {
    const WIDTH: u64 = W as u64;

    /// Fill `dest` from byte `at` on, which is not on the border of an entry or `dest` is less than an entry; gives how
    /// many bytes were filled.
    fn partial(&self, dest: &mut [u8], at: u64) -> usize {
        let mut entry = [0; W];
        self.0.fill(at / Self::WIDTH, &mut entry);
        let bytes = entry.get((at % Self::WIDTH) as usize..).unwrap_or_default();
        let n = bytes.len().min(dest.len());
        dest.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        n
    }
}

impl<const W: usize, E: Entries<W>> ReadAt for Table<W, E> {
    fn size(&self) -> u64 {
        self.0.count().saturating_mul(Self::WIDTH)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = readable(buf, offset, self.size());
        let mut rest = buf.get_mut(..wanted).unwrap_or_default();
        let mut at = offset;
        while !rest.is_empty() {
            let whole = rest.len() - rest.len() % W;
            let n = if at.is_multiple_of(Self::WIDTH) && whole > 0 {
                self.0.fill(at / Self::WIDTH, rest.get_mut(..whole).unwrap_or_default());
                whole
            } else {
                self.partial(rest, at)
            };
            at += n as u64;
            rest = rest.get_mut(n..).unwrap_or_default();
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let size = self.size();
        if offset >= size {
            return Ok(None);
        }
        let limit = size.min(offset.saturating_add(EXTENT_MAX));
        // The end of the zeros that are at a byte.
        let zeros_end = |at: u64| {
            let entry = at / Self::WIDTH;
            entry.saturating_add(self.0.zeros(entry)).saturating_mul(Self::WIDTH).min(size)
        };
        let first = zeros_end(offset);
        if first.saturating_sub(offset) >= HOLE_MIN || first == size {
            return Ok(Some(Extent { range: offset..first, kind: ExtentKind::Hole }));
        }
        // Data, up to zeros that are worth it.
        let mut at = first.max(offset);
        while at < limit {
            let end = zeros_end(at);
            if end.saturating_sub(at) >= HOLE_MIN {
                break;
            }
            at = end.max(at + (Self::WIDTH - at % Self::WIDTH));
        }
        Ok(Some(Extent { range: offset..at.min(size), kind: ExtentKind::Data }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

/// A table with an entry for each unit: one that depends on its rank where it is stored, else always the same.
pub struct UnitEntries<const W: usize, F> {
    /// Which units are stored.
    pub allocation: Arc<Allocation>,
    /// Entries of the table; there may be more than units.
    pub count: u64,
    /// The entry of a unit that is not stored.
    pub absent: [u8; W],
    /// The entry of a unit that is stored, by its rank.
    pub stored: F,
}

impl<const W: usize, F: Fn(u64) -> [u8; W] + Send + Sync> Entries<W> for UnitEntries<W, F> {
    fn count(&self) -> u64 {
        self.count
    }

    fn fill(&self, first: u64, out: &mut [u8]) {
        let mut entries = out.chunks_exact_mut(W);
        for run in self.allocation.runs(first..first + entries.len() as u64) {
            for (unit, entry) in (0..run.units.end - run.units.start).zip(&mut entries) {
                entry.copy_from_slice(&run.rank.map_or(self.absent, |rank| (self.stored)(rank + unit)));
            }
        }
    }

    fn zeros(&self, first: u64) -> u64 {
        if self.absent == [0; W] { self.allocation.absent(first).min(self.count.saturating_sub(first)) } else { 0 }
    }
}

/// A table whose entry is a function of its number.
pub struct Numbered<F> {
    /// Entries of the table.
    pub count: u64,
    /// The entry of a number.
    pub entry: F,
}

impl<const W: usize, F: Fn(u64) -> [u8; W] + Send + Sync> Entries<W> for Numbered<F> {
    fn count(&self) -> u64 {
        self.count
    }

    fn fill(&self, first: u64, out: &mut [u8]) {
        for (number, entry) in (first..).zip(out.chunks_exact_mut(W)) {
            entry.copy_from_slice(&(self.entry)(number));
        }
    }

    fn zeros(&self, _first: u64) -> u64 {
        0
    }
}

/// `value` as the 32-bit number that a field of the format has, or an error that says the `format` cannot.
pub fn fits_u32(value: u64, format: &str) -> Result<u32> {
    u32::try_from(value).map_err(|_| {
        Error::unsupported(format!("the image file would be too large for {format}: use qcow2, VHDX or raw"))
    })
}
