//! Sparse content: each record says where it belongs, what is between is zeros.
//!
//! Zeros are delivered only where it is certain that nothing was stored: between two records that follow each
//! other and whose offsets were both verified. Records that cannot be read are passed over when one is looked for, so
//! that damage costs the bytes around it and no others.

use std::ops::Range;

use blockdev::{Error, ErrorKind, Extent, ExtentKind, MappedRun, ReadAt, Result};

use super::raw::RawStream;
use crate::session::cursor::{Cursor, Record};

/// Damaged records next to each other that are passed over, to each side.
const MAX_PASSED: u64 = 64;

/// Sparse content.
#[derive(Debug)]
pub struct Sparse {
    raw: RawStream,
    size: u64,
}

/// A stored record: its content's offset and length in the file.
#[derive(Debug, Clone, Copy)]
struct Stored {
    ordinal: u64,
    offset: u64,
    len: u64,
}

impl Stored {
    const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// What is known around an offset.
#[derive(Debug, Default)]
struct Around {
    /// The last record that starts at or before it.
    before: Option<Stored>,
    /// The first record that starts behind it.
    after: Option<Stored>,
    /// Why records between these two cannot be read, if there are any.
    lost: Option<Error>,
}

impl Sparse {
    /// Sparse content of which `raw` are the records; `size` is the file's length if it is known to be longer
    /// than the last record tells (it cannot be shorter).
    ///
    /// # Errors
    ///
    /// When the last record cannot be read and `size` is not known.
    pub fn new(raw: RawStream, size: Option<u64>) -> Result<Self> {
        let mut sparse = Self { raw, size: size.unwrap_or(0) };
        if let Some(last) = sparse.raw.segments.records.checked_sub(1) {
            match sparse.stored(last) {
                Ok(last) => sparse.size = sparse.size.max(last.end()),
                Err(e) if size.is_some() && is_damage(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(sparse)
    }

    /// Record `ordinal`, out of verified blocks.
    fn stored(&self, ordinal: u64) -> Result<Stored> {
        let lost = || Error::damaged("a sparse file's record is not where it must be");
        let segments = &self.raw.segments;
        let (run, n) = segments.record(ordinal).ok_or_else(lost)?;
        let pos = run.at(n).ok_or_else(lost)?;
        let record = Record { file_index: segments.file_index, stream: segments.stream, len: run.record_len, pos };
        let bytes = Cursor::verified_prefix::<8>(&self.raw.data, &record)?.ok_or_else(lost)?;
        Ok(Stored { ordinal, offset: u64::from_be_bytes(bytes), len: self.raw.content_len(run) })
    }

    /// The record of `range` closest to `middle` that can be read, the later ones first; why none can be, otherwise.
    fn readable(&self, range: &Range<u64>, middle: u64) -> Result<std::result::Result<Stored, Error>> {
        let behind = middle..range.end.min(middle.saturating_add(MAX_PASSED));
        let before = range.start.max(middle.saturating_sub(MAX_PASSED))..middle;
        let all = before.start == range.start && behind.end == range.end;
        let mut why = None;
        for ordinal in behind.chain(before.rev()) {
            match self.stored(ordinal) {
                Ok(stored) => return Ok(Ok(stored)),
                Err(e) if is_damage(&e) => why = why.or(Some(e)),
                Err(e) => return Err(e),
            }
        }
        let why = why.unwrap_or_else(|| Error::damaged("a sparse file has no records"));
        if all { Ok(Err(why)) } else { Err(why) }
    }

    /// The records around `offset`.
    fn around(&self, offset: u64) -> Result<Around> {
        let mut found = Around::default();
        // Offsets rise. The records in front of `unknown` start at or before `offset`, those behind it later.
        let mut unknown = 0..self.raw.segments.records;
        while !unknown.is_empty() {
            match self.readable(&unknown, unknown.start + (unknown.end - unknown.start) / 2)? {
                Ok(stored) if stored.offset <= offset => {
                    unknown.start = stored.ordinal + 1;
                    found.before = Some(stored);
                }
                Ok(stored) => {
                    unknown.end = stored.ordinal;
                    found.after = Some(stored);
                }
                Err(why) => {
                    found.lost = Some(why);
                    break;
                }
            }
        }
        Ok(self.with_end(found))
    }

    /// What is around the start of `stored`'s successor.
    fn behind(&self, stored: Stored) -> Result<Around> {
        let mut found = Around { before: Some(stored), ..Around::default() };
        let next = Some(stored.ordinal + 1).filter(|n| *n < self.raw.segments.records);
        match next.map(|n| self.stored(n)).transpose() {
            Ok(after) => found.after = after,
            Err(e) if is_damage(&e) => found.lost = Some(e),
            Err(e) => return Err(e),
        }
        Ok(self.with_end(found))
    }

    /// Behind the last record that was found there may be others.
    fn with_end(&self, mut found: Around) -> Around {
        if found.after.is_none()
            && let Some(why) = &self.raw.segments.broken
        {
            found.lost.get_or_insert_with(|| Error::damaged(why.clone()));
        }
        found
    }

    /// Where the bytes that are stored without a gap end, at or behind the end of `stored`.
    ///
    /// Records do not overlap, so those between two of equal length leave no gap when the later one starts as many lengths
    /// further on as it is records further on. The last such record is looked for in growing steps.
    fn data_end(&self, stored: Stored) -> u64 {
        let left = self.raw.segments.record(stored.ordinal).map_or(0, |(run, n)| run.count - n - 1);
        let is_joined = |n: u64| {
            let at = n.checked_mul(stored.len).and_then(|far| stored.offset.checked_add(far));
            n <= left && self.stored(stored.ordinal + n).is_ok_and(|other| Some(other.offset) == at)
        };
        let (mut joined, mut step) = (0, 1);
        while is_joined(joined + step) {
            joined += step;
            step *= 2;
        }
        while step > 1 {
            step /= 2;
            if is_joined(joined + step) {
                joined += step;
            }
        }
        stored.end().saturating_add(joined.saturating_mul(stored.len))
    }

    /// Where what is not stored around `at` ends.
    fn gap_end(&self, around: &Around, at: u64) -> u64 {
        around.after.map_or(self.size, |after| after.offset.max(at)).min(self.size)
    }
}

impl ReadAt for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = (buf.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let mut around = self.around(offset)?;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            if let Some(stored) = around.before.filter(|s| s.offset <= at && at < s.end()) {
                let record = self.raw.segments.record(stored.ordinal);
                let (run, n) = record.ok_or_else(|| Error::damaged("a record is gone"))?;
                let here = ((wanted - done) as u64).min(stored.end() - at) as usize;
                done += self.raw.read(run, n, at - stored.offset, &mut buf[done..done + here])?;
                continue;
            }
            if let Some(why) = around.lost {
                return Err(why);
            }
            let stop = (self.gap_end(&around, at) - offset).min(wanted as u64) as usize;
            buf[done..stop].fill(0);
            done = stop;
            match around.after {
                Some(after) => around = self.behind(after)?,
                None => break,
            }
        }
        Ok(done)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        let around = self.around(offset)?;
        Ok(Some(match around.before.filter(|s| offset < s.end()) {
            Some(stored) => Extent { range: offset..self.data_end(stored).min(self.size), kind: ExtentKind::Data },
            None => {
                // What is lost was data; reading it says why.
                let kind = if around.lost.is_some() { ExtentKind::Data } else { ExtentKind::Hole };
                Extent { range: offset..self.gap_end(&around, offset), kind }
            }
        }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

fn is_damage(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Missing)
}
