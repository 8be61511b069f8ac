//! Content that is stored as it was, one record after the other.

use blockdev::{Error, Extent, ExtentKind, MappedRun, ReadAt, Result};

use super::raw::RawStream;
use crate::layout::segments::Segment;

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
