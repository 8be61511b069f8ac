//! Finding the zeros that a source stores.
//!
//! A backup that was not told to be sparse stores a disk's empty parts as zeros. Making an image of it, these are left
//! out: the disk is read once, in parallel, and one bit is kept for each unit of it (a 1 TiB disk: 2 MiB).

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use crate::{BlockDevice, BlockSizes, Error, ErrorKind, Extent, ExtentKind, MappedRun, ReadAt, Result, copy::is_zero};

/// What one bit stands for, in bytes: the cluster size of common image formats.
const UNIT: u64 = 64 << 10;
/// What a worker takes at once, in bytes; a word of bits.
const SHARE: u64 = UNIT * 64;

/// A device whose zeros are known: its extents tell them as holes.
pub struct WithoutZeros {
    device: Arc<dyn BlockDevice>,
    /// A bit for each unit that is data in part and all zeros.
    zeros: Vec<AtomicU64>,
}

impl WithoutZeros {
    /// Read all that `device` stores, with `workers` threads. `progress` counts the bytes that are done with.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or [`ErrorKind::Limit`] when `cancel` was set.
    pub fn find(
        device: Arc<dyn BlockDevice>,
        workers: usize,
        progress: &AtomicU64,
        cancel: &AtomicBool,
    ) -> Result<Arc<dyn BlockDevice>> {
        let shares = device.size().div_ceil(SHARE);
        let words = usize::try_from(shares).map_err(|_| Error::unsupported("a disk larger than memory can map"))?;
        let mut zeros = Vec::new();
        zeros.resize_with(words, AtomicU64::default);
        let found = Self { device, zeros };
        let (next, failed) = (AtomicU64::new(0), Mutex::new(None));
        let work = || {
            let mut buffer = vec![0; SHARE as usize];
            while !cancel.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= shares {
                    return;
                }
                if let Err(e) = found.look(number, &mut buffer) {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    next.store(shares, Ordering::Relaxed);
                    return;
                }
                progress.fetch_add(SHARE.min(found.size() - number * SHARE), Ordering::Relaxed);
            }
        };
        thread::scope(|scope| {
            for _ in 1..workers.max(1) {
                scope.spawn(work);
            }
            work();
        });
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Limit, "stopped before the end"));
        }
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(e) => Err(e),
            None => Ok(Arc::new(found)),
        }
    }

    fn look(&self, number: u64, buffer: &mut [u8]) -> Result<()> {
        let share = number * SHARE..(number * SHARE + SHARE).min(self.size());
        let mut word = 0_u64;
        let mut at = share.start;
        while at < share.end {
            let extent = self.device.extent_at(at)?.filter(|e| e.range.end > at);
            let extent = extent.ok_or_else(|| Error::damaged(format!("the disk ends at byte {at}")))?;
            if extent.kind == ExtentKind::Hole {
                at = extent.range.end;
                continue;
            }
            // Whole units: a hole in one counts as the zeros it reads as.
            let start = at - at % UNIT;
            let end = extent.range.end.next_multiple_of(UNIT).min(share.end);
            let bytes = buffer.get_mut(..(end - start) as usize).unwrap_or_default();
            if self.device.read_at(bytes, start)? < bytes.len() {
                return Err(Error::damaged(format!("the disk ends before byte {end}")));
            }
            for (unit, bytes) in ((start - share.start) / UNIT..).zip(bytes.chunks(UNIT as usize)) {
                word |= u64::from(is_zero(bytes)) << unit;
            }
            at = end;
        }
        if let Some(place) = self.zeros.get(number as usize) {
            place.store(word, Ordering::Relaxed);
        }
        Ok(())
    }

    fn is_zero(&self, at: u64) -> bool {
        let word = self.zeros.get((at / SHARE) as usize).map_or(0, |w| w.load(Ordering::Relaxed));
        word >> (at % SHARE / UNIT) & 1 == 1
    }

    /// To where in `range` all units are zeros, or none is.
    fn alike(&self, range: Range<u64>) -> u64 {
        let first = self.is_zero(range.start);
        let mut at = range.start - range.start % UNIT + UNIT;
        while at < range.end && self.is_zero(at) == first {
            at += UNIT;
        }
        at.min(range.end)
    }
}

impl ReadAt for WithoutZeros {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.device.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let Some(extent) = self.device.extent_at(offset)?.filter(|e| e.kind == ExtentKind::Data) else {
            return self.device.extent_at(offset);
        };
        let end = self.alike(offset..extent.range.end);
        let kind = if self.is_zero(offset) { ExtentKind::Hole } else { ExtentKind::Data };
        Ok(Some(Extent { range: offset..end, kind }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        self.device.map(offset, len)
    }
}

impl BlockDevice for WithoutZeros {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{images::Disk, images::raw::Raw};

    #[test]
    fn zeros_are_holes_and_nothing_else_is() {
        let mut bytes = vec![0; 9_000_001];
        let data = [100_000..100_001_usize, 4_194_303..4_194_305, 8_999_999..9_000_001];
        data.iter().for_each(|r| bytes[r.clone()].fill(1));
        let raw: Arc<dyn ReadAt> = Arc::new(bytes.clone());
        let disk = Disk::new(vec![Arc::new(Raw::new(raw))], BlockSizes::CLASSIC).expect("a disk");
        let progress = AtomicU64::new(0);
        let found = WithoutZeros::find(Arc::new(disk), 3, &progress, &AtomicBool::new(false)).expect("found");
        assert_eq!(progress.load(Ordering::Relaxed), bytes.len() as u64);
        let (mut at, mut stored) = (0, 0);
        while let Some(extent) = found.extent_at(at).expect("extents") {
            assert!(extent.range.start == at && extent.range.end > at);
            let range = extent.range.start as usize..extent.range.end as usize;
            match extent.kind {
                ExtentKind::Hole => assert!(is_zero(&bytes[range])),
                ExtentKind::Data => stored += range.len() as u64,
            }
            at = extent.range.end;
        }
        assert_eq!(at, bytes.len() as u64);
        assert!(stored <= 4 * UNIT, "{stored}");
    }
}
