//! Sparse content: each record says where it belongs, what is between is zeros.
//!
//! Records that follow each other without a gap make a stretch, of which the first and the last record tell where all of
//! it belongs: it is read at once, like content that is not sparse. Which stretches there are is learnt by looking for
//! them, and kept.
//!
//! Zeros are delivered only where it is certain that nothing was stored: between two records that follow each
//! other and whose offsets were both verified. Records that cannot be read are passed over when one is looked for, so
//! that damage costs the bytes around it and no others.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use blockdev::{Error, ErrorKind, Extent, ExtentKind, MappedRun, ReadAt, Result};

use super::raw::RawStream;
use crate::{
    layout::segments::Segment,
    session::cursor::{Cursor, Record},
};

/// Damaged records next to each other that are passed over, to each side.
const MAX_PASSED: u64 = 64;
/// Stretches of one file that are kept: about 256 KiB. With more of them all are forgotten.
const MAX_KNOWN: usize = 4096;

/// Sparse content.
#[derive(Debug)]
pub struct Sparse {
    raw: RawStream,
    size: u64,
    /// Stretches that were found, by their offset.
    known: Mutex<BTreeMap<u64, Stretch>>,
}

/// Records of one run that are stored without a gap between their contents.
///
/// Records do not overlap, so those between two of equal length leave no gap when the later one starts as many lengths
/// further on as it is records further on.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// The first record.
    ordinal: u64,
    /// Where its content belongs in the file.
    offset: u64,
    /// Content bytes of each.
    len: u64,
    /// How many.
    count: u64,
}

impl Stretch {
    const fn end(&self) -> u64 {
        self.offset.saturating_add(self.count.saturating_mul(self.len))
    }

    /// The record behind the last.
    const fn next(&self) -> u64 {
        self.ordinal.saturating_add(self.count)
    }

    const fn contains(&self, offset: u64) -> bool {
        self.offset <= offset && offset < self.end()
    }

    /// With so many records.
    const fn of(self, count: u64) -> Self {
        Self { count, ..self }
    }
}

/// What is known around an offset.
#[derive(Debug, Default)]
struct Around {
    /// What is stored at it, or else before.
    before: Option<Stretch>,
    /// What is stored behind it; the first of it if there is nothing at it.
    after: Option<Stretch>,
    /// Why records between these two cannot be read, if there are any.
    lost: Option<Error>,
}

impl Around {
    /// Whether it is of an offset at which something is stored.
    fn is_stored(&self, offset: u64) -> bool {
        self.before.is_some_and(|before| before.contains(offset))
    }
}

impl Sparse {
    /// Sparse content of which `raw` are the records; `size` is the file's length if it is known to be longer
    /// than the last record tells (it cannot be shorter).
    ///
    /// # Errors
    ///
    /// When the last record cannot be read and `size` is not known.
    pub fn new(raw: RawStream, size: Option<u64>) -> Result<Self> {
        let mut sparse = Self { raw, size: size.unwrap_or(0), known: Mutex::default() };
        if let Some(last) = sparse.raw.segments.records.checked_sub(1) {
            match sparse.stored(last) {
                Ok(last) => sparse.size = sparse.size.max(last.end()),
                Err(e) if size.is_some() && is_damage(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(sparse)
    }

    /// The run with record `ordinal`, and which it is of that.
    fn record(&self, ordinal: u64) -> Result<(&Segment, u64)> {
        self.raw.segments.record(ordinal).ok_or_else(misplaced)
    }

    /// Record `ordinal`, out of verified blocks.
    fn stored(&self, ordinal: u64) -> Result<Stretch> {
        let segments = &self.raw.segments;
        let (run, n) = self.record(ordinal)?;
        let pos = run.at(n).ok_or_else(misplaced)?;
        let record = Record { file_index: segments.file_index, stream: segments.stream, len: run.record_len, pos };
        let bytes = Cursor::verified_prefix::<8>(&self.raw.data, &record)?.ok_or_else(misplaced)?;
        Ok(Stretch { ordinal, offset: u64::from_be_bytes(bytes), len: self.raw.content_len(run), count: 1 })
    }

    /// The record of `range` closest to `first` that can be read, the later ones first; why none can be, otherwise.
    fn readable(&self, range: &Range<u64>, first: u64) -> Result<std::result::Result<Stretch, Error>> {
        let behind = first..range.end.min(first.saturating_add(MAX_PASSED));
        let before = range.start.max(first.saturating_sub(MAX_PASSED))..first;
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

    fn known(&self) -> MutexGuard<'_, BTreeMap<u64, Stretch>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keep what was found.
    fn learn(&self, stretch: Stretch) {
        let mut known = self.known();
        if known.get(&stretch.offset).is_some_and(|kept| kept.count >= stretch.count) {
            return;
        }
        if known.len() >= MAX_KNOWN && !known.contains_key(&stretch.offset) {
            known.clear();
        }
        known.insert(stretch.offset, stretch);
    }

    /// What is around `offset`.
    fn around(&self, offset: u64) -> Result<Around> {
        let mut found = self.known_around(offset);
        if found.is_stored(offset) {
            return Ok(found);
        }
        // Offsets rise. The records in front of `unknown` start at or before `offset`, those behind it later.
        let start = found.before.map_or(0, |before| before.next());
        let mut unknown = start..found.after.map_or(self.raw.segments.records, |after| after.ordinal);
        let mut guess = self.guess(found.before, offset);
        while !unknown.is_empty() && !found.is_stored(offset) {
            let middle = unknown.start + (unknown.end - unknown.start) / 2;
            let looked_at = match guess.take().filter(|ordinal| unknown.contains(ordinal)) {
                Some(ordinal) => match self.stored(ordinal) {
                    Err(e) if is_damage(&e) => continue,
                    stored => Ok(stored?),
                },
                None => self.readable(&unknown, middle)?,
            };
            match looked_at {
                Ok(stored) if stored.offset <= offset => {
                    unknown.start = stored.next();
                    found.before = Some(self.joined_to(found.before, stored));
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
        // Where those that cannot be read belong may be told by those on both sides; then parts of them may be readable.
        if let (Some(_), Some(after)) = (&found.lost, found.after) {
            found.before = Some(self.joined_to(found.before, after)).filter(|s| s.contains(offset)).or(found.before);
        }
        found.before.into_iter().chain(found.after).for_each(|stretch| self.learn(stretch));
        Ok(self.with_end(found))
    }

    /// What was found before around `offset`.
    fn known_around(&self, offset: u64) -> Around {
        let known = self.known();
        let before = known.range(..=offset).next_back().map(|(_, stretch)| *stretch);
        let after = known.range(offset.saturating_add(1)..).next().map(|(_, stretch)| *stretch);
        Around { before, after, lost: None }
    }

    /// The record that has `offset` if there is no gap between it and `before`, or the start of the file.
    fn guess(&self, before: Option<Stretch>, offset: u64) -> Option<u64> {
        let (ordinal, start) = before.map_or((0, 0), |before| (before.ordinal, before.offset));
        let (run, _) = self.record(ordinal).ok()?;
        offset.checked_sub(start)?.checked_div(self.raw.content_len(run))?.checked_add(ordinal)
    }

    /// `stored` as the last record of `before`, if there is no gap between the two, or else alone.
    fn joined_to(&self, before: Option<Stretch>, stored: Stretch) -> Stretch {
        let longer = before.and_then(|before| {
            let by = stored.ordinal.checked_sub(before.ordinal)?;
            let (run, n) = self.record(before.ordinal).ok()?;
            let is_joined = by < run.count - n && before.of(by).end() == stored.offset;
            is_joined.then(|| before.of(by + 1))
        });
        longer.unwrap_or(stored)
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

    /// `stretch` with the records behind it that are joined to it, as far as offset `end`. Most often all are; otherwise
    /// the last one is looked for in growing steps.
    fn extended(&self, stretch: Stretch, end: u64) -> Stretch {
        let left = self.record(stretch.ordinal).map_or(1, |(run, n)| run.count - n);
        let wanted = end.saturating_sub(stretch.offset).div_ceil(stretch.len.max(1)).min(left);
        if wanted <= stretch.count {
            return stretch;
        }
        let is_joined = |count: u64| {
            let last = stretch.ordinal + count - 1;
            count <= wanted && self.stored(last).is_ok_and(|s| s.offset == stretch.of(count - 1).end())
        };
        let mut count = stretch.count;
        if is_joined(wanted) {
            count = wanted;
        } else {
            let mut step = 1;
            while is_joined(count + step) {
                count += step;
                step *= 2;
            }
            while step > 1 {
                step /= 2;
                if is_joined(count + step) {
                    count += step;
                }
            }
        }
        let longer = stretch.of(count);
        self.learn(longer);
        longer
    }

    /// Fill `buf` from `at` on, which is in `stretch`, as far as that goes; how many bytes that are.
    fn read_stored(&self, stretch: Stretch, buf: &mut [u8], at: u64) -> Result<usize> {
        let (run, n) = self.record(stretch.ordinal)?;
        let within = at - stretch.offset;
        let here = usize::try_from(stretch.end() - at).unwrap_or(usize::MAX).min(buf.len());
        let dest = buf.get_mut(..here).unwrap_or_default();
        match self.raw.read(run, n + within / stretch.len, within % stretch.len, dest)? {
            read if read == here && read > 0 => Ok(read),
            _ => Err(misplaced()),
        }
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
        let end = offset + wanted as u64;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..wanted).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let around = self.around(at)?;
            done += match around.before.filter(|s| s.contains(at)) {
                Some(stretch) => self.read_stored(self.extended(stretch, end), rest, at)?,
                None => {
                    if let Some(why) = around.lost {
                        return Err(why);
                    }
                    let gap = (self.gap_end(&around, at).min(end) - at) as usize;
                    rest[..gap].fill(0);
                    gap
                }
            };
        }
        Ok(done)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        let around = self.around(offset)?;
        Ok(Some(match around.before.filter(|s| s.contains(offset)) {
            Some(stretch) => {
                let end = self.extended(stretch, self.size).end().min(self.size);
                Extent { range: offset..end, kind: ExtentKind::Data }
            }
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

fn misplaced() -> Error {
    Error::damaged("a sparse file's record is not where it must be")
}

fn is_damage(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Missing)
}
