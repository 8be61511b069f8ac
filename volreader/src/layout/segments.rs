//! The records of one file's data, as runs of equal records.
//!
//! A stock File daemon reads a file in pieces of equal length, so nearly every file is one run and a rest. The
//! runs are found with a few probes each: where the length is known the last record is looked up where it must
//! stand; where it is not, the run's end is found by galloping and bisecting. A pipe or plugin that sent pieces
//! of changing length simply has more runs.

use std::sync::{Arc, OnceLock};

use blockdev::{Error, ErrorKind, Result};

use super::clock::{Clock, Geometry, Run};
use crate::{
    index::entry::RecordPos,
    record,
    session::{
        SessionData,
        cursor::{Cursor, Record},
        map::{BlockMap, BlockPlace},
    },
};

/// Blocks that are looked at for the end of a file's data behind damage.
const MAX_RECOVERY: u32 = 1000;
/// Runs that one file may have: 24 MiB of them.
const MAX_RUNS: usize = 1 << 18;

/// Records of equal length.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The first record's header.
    first: RecordPos,
    clock: Arc<Clock>,
    /// The block of the first record, for sessions whose blocks have to be found.
    origin: Option<BlockPlace>,
    /// How many.
    pub count: u64,
    /// Payload bytes of each.
    pub record_len: u32,
    /// Records of the file before this run.
    pub ordinal: u64,
    /// Payload bytes of the file before this run.
    pub start: u64,
    /// Whether the headers that tell of the run are in blocks that verify; found out when it first matters.
    vouched: OnceLock<bool>,
}

impl Segment {
    /// Whether the run is as it was stored: it was found by looking at headers before their blocks were verified. Its
    /// first record and its last tell of it; what lies between is arithmetic.
    pub fn is_vouched(&self, data: &SessionData) -> bool {
        let vouch = |n: u64| {
            self.expect(data, n);
            self.at(n).is_some_and(|pos| data.vouch(pos.block).is_ok())
        };
        *self.vouched.get_or_init(|| vouch(0) && vouch(self.count.saturating_sub(1)))
    }

    /// Where record `n` of this run stands.
    #[must_use]
    pub fn at(&self, n: u64) -> Option<RecordPos> {
        let tick = self.clock.at(n)?;
        let block = u64::from(self.first.block).checked_add(tick.blocks)?;
        Some(RecordPos { block: u32::try_from(block).ok()?, offset: tick.offset })
    }

    /// Where record `n` must stand in the volume, told to a session that has to find its blocks.
    pub fn expect(&self, data: &SessionData, n: u64) {
        let (Some(tick), Some(pos)) = (self.clock.at(n), self.at(n)) else { return };
        if let Some(origin) = self.origin {
            data.expect(pos.block, origin.volume, origin.address.saturating_add(tick.bytes));
        }
    }

    /// The run's block geometry.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.clock.run().geometry
    }
}

/// All data records of a file.
#[derive(Debug, Clone)]
pub struct Segments {
    /// The runs, in order.
    pub runs: Vec<Segment>,
    /// Number of records.
    pub records: u64,
    /// Payload bytes of all records.
    pub len: u64,
    /// Where the record behind the last one stands.
    pub end: RecordPos,
    /// The file's number.
    pub file_index: i32,
    /// The stream as in the headers.
    pub stream: i32,
    /// Why records are missing at the end, if they are: damage, or the job was cut off.
    pub broken: Option<String>,
}

impl Segments {
    /// Find the runs of the data that starts with `first`. `hint`: payload bytes that the file should have.
    ///
    /// # Errors
    ///
    /// When the volume cannot be read, or the data is in more pieces than are kept in memory.
    pub fn discover(data: &SessionData, first: &Record, hint: Option<u64>) -> Result<Self> {
        let mut found = Self {
            runs: Vec::new(),
            records: 0,
            len: 0,
            end: first.pos,
            file_index: first.file_index,
            stream: first.stream,
            broken: None,
        };
        let geometry = data.geometry()?;
        loop {
            match found.next_run(data, geometry, hint) {
                Ok(true) => {}
                Ok(false) => return Ok(found),
                Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Missing) => {
                    found.broken = Some(e.to_string());
                    found.end = found.behind_damage(data, geometry.header_len);
                    return Ok(found);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Add the run that starts at `self.end`; false when there is none.
    fn next_run(&mut self, data: &SessionData, geometry: Geometry, hint: Option<u64>) -> Result<bool> {
        let mut cursor = Cursor::new(data, self.end);
        let found = cursor.peek()?;
        // The position may have been moved to the next block by looking.
        self.end = cursor.pos();
        // Something follows the data of every file that is whole, if only the end of the job.
        if found.is_none() && hint != Some(self.len) {
            return Err(data.ends("here"));
        }
        let Some(record) = found.filter(|r| r.file_index == self.file_index && r.stream == self.stream) else {
            // A damaged header would end the data, too. Where the length is as it should be it is not asked.
            if found.is_some() && hint != Some(self.len) {
                data.vouch(self.end.block)?;
            }
            return Ok(false);
        };
        if record.len == 0 {
            cursor.skip(&record)?;
            self.end = cursor.pos();
            self.records += 1;
            return Ok(true);
        }
        let skipped = cursor.skip(&record);
        // The last record of a job that was cut off is not whole: what there is of it can be read.
        let single = skipped.is_err() || Self::is_other(cursor.peek(), &record)?;
        let left = hint.and_then(|h| h.checked_sub(self.len)).filter(|l| *l > u64::from(record.len));
        let limit = if single { 1 } else { left.map_or(u64::MAX, |l| l.div_ceil(u64::from(record.len))) };
        let run = Run { geometry, record_len: record.len, offset: record.pos.offset };
        let clock =
            Clock::new(run, limit).ok_or_else(|| Error::damaged("a record header stands outside of its block"))?;
        let mut segment = Segment {
            first: record.pos,
            clock: Arc::new(clock),
            origin: data.place(record.pos.block)?,
            count: 1,
            record_len: record.len,
            ordinal: self.records,
            start: self.len,
            vouched: OnceLock::new(),
        };
        let mut rest = None;
        if !single {
            (segment.count, rest) = segment.measure(data, &record, left)?;
        }
        let (count, last) = (segment.count, segment.at(segment.count - 1).ok_or_else(too_long)?);
        let behind = segment.at(count).ok_or_else(too_long)?;
        self.push(segment)?;
        if let Some(len) = rest {
            // Its header may be in a damaged block: that it is there was seen in the block behind.
            let run = Run { geometry, record_len: len, offset: behind.offset };
            let clock =
                Clock::new(run, 1).ok_or_else(|| Error::damaged("a record header stands outside of its block"))?;
            let origin = data.place(behind.block).ok().flatten();
            let (ordinal, start) = (self.records, self.len);
            let segment = Segment {
                first: behind,
                clock: Arc::new(clock),
                origin,
                count: 1,
                record_len: len,
                ordinal,
                start,
                vouched: OnceLock::new(),
            };
            self.end = segment.at(1).ok_or_else(too_long)?;
            self.push(segment)?;
        } else if single {
            self.end = last;
            let mut cursor = Cursor::new(data, last);
            cursor.skip(&Record { pos: last, ..record })?;
            self.end = cursor.pos();
            // Where the record really goes on and where the arithmetic says must be the same, or the bytes between
            // would be others.
            if record.len > 0 && !self.same_place(data, behind) {
                let place = data.place(last.block)?;
                let what = "a block has a length that does not fit its records";
                return Err(place.map_or_else(|| Error::damaged(what), |p| data.damaged_at(&p, what)));
            }
        } else {
            self.end = behind;
        }
        Ok(true)
    }

    fn push(&mut self, segment: Segment) -> Result<()> {
        if self.runs.len() == MAX_RUNS {
            return Err(Error::new(ErrorKind::Limit, "the file's data is in too many pieces of different lengths"));
        }
        self.records += segment.count;
        let bytes = segment.count.saturating_mul(u64::from(segment.record_len));
        self.len = self.len.checked_add(bytes).ok_or_else(too_long)?;
        self.runs.push(segment);
        Ok(())
    }

    /// Whether `computed` is where the walk has come to; the end of a block and the start of the next are one.
    fn same_place(&self, data: &SessionData, computed: RecordPos) -> bool {
        let mut walked = Cursor::new(data, self.end);
        // At the session's last block there may be no next record to compare with.
        walked.peek().is_err()
            || walked.pos() == computed
            || self.end == computed
            || (computed.block == self.end.block.saturating_add(1) && walked.pos() == self.end)
    }

    /// The record behind this file's data, beyond the damage at `self.end`; the end of the session if that cannot
    /// be told from a later one, for what stands between would be lost without a word.
    fn behind_damage(&self, data: &SessionData, header_len: u32) -> RecordPos {
        let end = data.with_map(BlockMap::end).min(u64::from(u32::MAX)) as u32;
        let lost = RecordPos { block: end, offset: 0 };
        let mut number = self.end.block;
        for _ in 0..MAX_RECOVERY {
            let Some(next) = number.checked_add(1).and_then(|n| data.from_number(n)) else { break };
            number = next;
            let Ok(Some(pos)) = Cursor::after_continuation(data, number) else { continue };
            let mut bytes = [0; record::HEADER_LEN as usize];
            let first = data.peek(number, header_len, &mut bytes).ok().and_then(|n| record::Header::parse(&bytes[..n]));
            let mut data_seen = first
                .is_some_and(|h| h.is_continuation() && h.file_index == self.file_index && h.stream == -self.stream);
            let mut cursor = Cursor::new(data, pos);
            while let Ok(Some(record)) = cursor.peek() {
                if record.file_index != self.file_index || record.stream != self.stream {
                    return if data_seen { record.pos } else { lost };
                }
                data_seen = true;
                if cursor.skip(&record).is_err() {
                    break;
                }
            }
        }
        lost
    }

    /// The run and the place in it of record `ordinal`.
    #[must_use]
    pub fn record(&self, ordinal: u64) -> Option<(&Segment, u64)> {
        let i = self.runs.partition_point(|s| s.ordinal <= ordinal).checked_sub(1)?;
        let run = self.runs.get(i)?;
        let n = ordinal - run.ordinal;
        (n < run.count).then_some((run, n))
    }

    /// The run that holds payload byte `offset`.
    #[must_use]
    pub fn run_at(&self, offset: u64) -> Option<&Segment> {
        let i = self.runs.partition_point(|s| s.start <= offset).checked_sub(1)?;
        self.runs.get(i)
    }

    /// Whether what stands behind `record` is not another of its kind and length.
    fn is_other(next: Result<Option<Record>>, record: &Record) -> Result<bool> {
        match next {
            Ok(next) => {
                Ok(next
                    .is_none_or(|n| (n.file_index, n.stream, n.len) != (record.file_index, record.stream, record.len)))
            }
            Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Missing) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl Segment {
    /// How many records of this length there are, and the length of the shorter one behind them if it was seen.
    fn measure(&self, data: &SessionData, first: &Record, left: Option<u64>) -> Result<(u64, Option<u32>)> {
        let full = u64::from(self.record_len);
        if let Some(left) = left {
            let whole = left / full;
            let rest = (left % full) as u32;
            let last = if rest > 0 { (whole, rest) } else { (whole - 1, self.record_len) };
            if self.stands(data, first, last.0, last.1)? {
                return Ok((whole, (rest > 0).then_some(rest)));
            }
        }
        let mut good = 0;
        let mut step = 1;
        while self.stands(data, first, good + step, self.record_len)? {
            good += step;
            step = step.saturating_mul(2);
        }
        while step > 1 {
            step /= 2;
            if self.stands(data, first, good + step, self.record_len)? {
                good += step;
            }
        }
        Ok((good + 1, None))
    }

    /// Whether record `n` stands where it must, with `len` bytes. Where its header is damaged, the continuation
    /// in the next block tells.
    fn stands(&self, data: &SessionData, first: &Record, n: u64, len: u32) -> Result<bool> {
        let Some(pos) = self.at(n) else { return Ok(false) };
        self.expect(data, n);
        match Cursor::new(data, pos).peek() {
            Ok(found) => Ok(found.is_some_and(|r| {
                r.pos == pos && r.file_index == first.file_index && r.stream == first.stream && r.len == len
            })),
            Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Missing) => {
                let Geometry { block_len, header_len } = self.geometry();
                let here = block_len.saturating_sub(pos.offset + record::HEADER_LEN);
                let Some(left) = len.checked_sub(here).filter(|l| *l > 0) else { return Ok(false) };
                let mut bytes = [0; record::HEADER_LEN as usize];
                match data.peek(pos.block.saturating_add(1), header_len, &mut bytes) {
                    Ok(n) => {
                        let goes_on = record::Header { file_index: first.file_index, stream: -first.stream, len: left };
                        Ok(record::Header::parse(&bytes[..n]) == Some(goes_on))
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Missing) => Ok(false),
                    Err(e) => Err(e),
                }
            }
            Err(e) => Err(e),
        }
    }
}

fn too_long() -> Error {
    Error::damaged("the file's data goes on beyond what a job can hold")
}
