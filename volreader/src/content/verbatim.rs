//! Content that is stored as it was: plain, or sparse with the offset of each record in front of it.

use blockdev::{Error, Extent, ExtentKind, MappedRun, ReadAt, Result};

use super::raw::RawStream;
use crate::{
    layout::segments::Segment,
    session::cursor::{Cursor, Record},
};

/// Plain content: the payload, one record after the other.
#[derive(Debug)]
pub struct Plain {
    /// The payload.
    pub raw: RawStream,
    /// Content bytes that are there.
    stored: u64,
    /// Content bytes that should be there.
    size: u64,
}

impl Plain {
    /// Plain content of `raw`; `claimed` is the file's length by its attributes, which is believed where records
    /// are missing at the end.
    #[must_use]
    pub fn new(raw: RawStream, claimed: Option<u64>) -> Self {
        let segments = &raw.segments;
        let stored = segments.len.saturating_sub(segments.records.saturating_mul(u64::from(raw.skip)));
        let size = if segments.broken.is_some() { stored.max(claimed.unwrap_or(0)) } else { stored };
        Self { raw, stored, size }
    }

    fn run_start(&self, run: &Segment) -> u64 {
        run.start - run.ordinal * u64::from(self.raw.skip)
    }

    fn run_at(&self, offset: u64) -> Option<&Segment> {
        let runs = &self.raw.segments.runs;
        runs.get(runs.partition_point(|r| self.run_start(r) <= offset).checked_sub(1)?)
    }
}

impl ReadAt for Plain {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = (buf.len() as u64).min(self.size().saturating_sub(offset)) as usize;
        let end = offset + wanted as u64;
        if end > self.stored {
            let why = self.raw.segments.broken.as_deref().unwrap_or("the data ends too early");
            return Err(Error::damaged(format!("bytes {}..{end} are not there: {why}", offset.max(self.stored))));
        }
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let Some(run) = self.run_at(at) else { break };
            let (within, content) = (at - self.run_start(run), self.raw.content_len(run));
            let n = self.raw.read(run, within / content, within % content, &mut buf[done..wanted]);
            let n = n?;
            if n == 0 {
                break;
            }
            done += n;
        }
        Ok(done)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok((offset < self.size()).then(|| Extent { range: offset..self.size(), kind: ExtentKind::Data }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

/// Sparse content: each record says where it belongs, what is between is zeros.
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

impl Sparse {
    /// Sparse content of which `raw` are the records; `size` is the file's length if it is known to be longer
    /// than the last record tells (it cannot be shorter).
    ///
    /// # Errors
    ///
    /// When the last record cannot be read.
    pub fn new(raw: RawStream, size: Option<u64>) -> Result<Self> {
        let mut sparse = Self { raw, size: 0 };
        let last = match sparse.raw.segments.records.checked_sub(1) {
            Some(last) => sparse.stored(last)?.end(),
            None => 0,
        };
        sparse.size = size.unwrap_or(0).max(last);
        Ok(sparse)
    }

    /// Record `ordinal`, with the offset out of a verified block.
    fn stored(&self, ordinal: u64) -> Result<Stored> {
        let lost = || Error::damaged("a sparse file's record is not where it must be");
        let (run, n) = self.raw.segments.record(ordinal).ok_or_else(lost)?;
        let pos = run.at(n).ok_or_else(lost)?;
        let data = &self.raw.data;
        let segments = &self.raw.segments;
        let record = Record { file_index: segments.file_index, stream: segments.stream, len: run.record_len, pos };
        if data.must_verify(pos.block) {
            data.block(pos.block)?;
        }
        let bytes = Cursor::peek_payload::<8>(data, &record)?.ok_or_else(lost)?;
        Ok(Stored { ordinal, offset: u64::from_be_bytes(bytes), len: self.raw.content_len(run) })
    }

    /// The last record that starts at or before `offset`, and the one after it.
    fn around(&self, offset: u64) -> Result<(Option<Stored>, Option<Stored>)> {
        // Offsets rise. `low` records start at or before `offset`.
        let (mut low, mut high) = (0, self.raw.segments.records);
        let (mut before, mut after) = (None, None);
        while low < high {
            let middle = low + (high - low) / 2;
            let stored = self.stored(middle)?;
            if stored.offset <= offset {
                (low, before) = (middle + 1, Some(stored));
            } else {
                (high, after) = (middle, Some(stored));
            }
        }
        Ok((before, after))
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
        let (mut current, mut next) = self.around(offset)?;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            if let Some(stored) = current.filter(|s| at < s.end()) {
                let (run, n) =
                    self.raw.segments.record(stored.ordinal).ok_or_else(|| Error::damaged("a record is gone"))?;
                let here = (wanted - done).min((stored.end() - at) as usize);
                let read = self.raw.read(run, n, at - stored.offset, &mut buf[done..done + here]);
                done += read?;
                continue;
            }
            let hole_end = next.map_or(self.size, |n| n.offset.max(at)).min(offset + wanted as u64);
            buf[done..(hole_end - offset) as usize].fill(0);
            done = (hole_end - offset) as usize;
            if let Some(stored) = next.take() {
                current = Some(stored);
                next = if stored.ordinal + 1 < self.raw.segments.records {
                    Some(self.stored(stored.ordinal + 1)?)
                } else {
                    None
                };
            }
        }
        Ok(done)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        let (current, next) = self.around(offset)?;
        let hole_end = next.map_or(self.size, |n| n.offset);
        Ok(Some(match current.filter(|s| offset < s.end()) {
            Some(stored) => Extent { range: offset..stored.end().min(self.size), kind: ExtentKind::Data },
            None => Extent { range: offset..hole_end, kind: ExtentKind::Hole },
        }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}
