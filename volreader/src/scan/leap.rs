//! Leaping over the middle of a file whose records are all of one length.

use std::sync::Arc;

use blockdev::Result;

use crate::{
    block,
    layout::clock::{Clock, Geometry, Run, ShortBlock, Tick},
    medium::Address,
    record,
    volume::Volume,
};

/// Fewer records than this are walked.
const MIN_RECORDS: u64 = 4;
/// Leaps in a file of unknown length, and after a failed one, start with this many records.
const FIRST_RECORDS: u64 = 64;
/// After leaps that failed (other jobs' blocks lie between), so many records are walked before the next attempt.
const COOL_DOWN_MAX: u32 = 1024;
/// Clocks that are kept; every job has one or two.
const MAX_CLOCKS: usize = 8;

/// Where a leap led.
#[derive(Debug)]
pub struct Leap {
    /// Address of the block.
    pub address: Address,
    /// Its header.
    pub header: block::Header,
    /// Bytes of it that are there.
    pub present: u32,
    /// The place of the record header that was landed on, relative to the start.
    pub tick: Tick,
    /// Whole records passed over.
    pub records: u64,
    /// Length of full blocks.
    pub full_len: u32,
    clock: Arc<Clock>,
}

impl Leap {
    /// The short blocks that were passed over, by their distance from the block of the start.
    pub fn shorts(&self) -> impl Iterator<Item = ShortBlock> + '_ {
        self.clock.shorts_before(self.tick.blocks)
    }
}

/// Decides when to leap and how far.
#[derive(Debug, Default)]
pub struct Leaper {
    clocks: Vec<Arc<Clock>>,
    cool_down: u32,
    last_cool_down: u32,
    /// Bytes read in probes.
    pub bytes_read: u64,
}

impl Leaper {
    /// Try to leap from the record header at `p` in the block. `left` is the rest of the file's length, this
    /// record included, if known; `full_len` the length of full blocks as far as seen.
    ///
    /// # Errors
    ///
    /// When the volume cannot be read.
    pub fn try_leap(
        &mut self,
        volume: &Volume,
        (address, header): (Address, &block::Header),
        p: u32,
        record: &record::Header,
        left: Option<u64>,
        full_len: u32,
    ) -> Result<Option<Leap>> {
        // A record that goes over the end of its block shows how long full blocks are.
        let splits = p + record::HEADER_LEN + record.len.min(u32::MAX / 2) > header.len;
        let full_len = if splits { header.len } else { full_len };
        if full_len == 0 || record.len == 0 || u64::from(record.len) * MIN_RECORDS < u64::from(full_len) {
            return Ok(None);
        }
        let records = left.map(|l| l.div_ceil(u64::from(record.len)) - 1);
        if records.is_some_and(|n| n < MIN_RECORDS) {
            return Ok(None);
        }
        if self.cool_down > 0 {
            self.cool_down -= 1;
            return Ok(None);
        }
        let geometry = Geometry { block_len: full_len, header_len: header.header_len() };
        let run = Run { geometry, record_len: record.len, offset: p };
        let Some(clock) = self.clock(run) else { return Ok(None) };
        let end = volume.medium().ranges()?.into_iter().find(|r| r.contains(&address)).map_or(0, |r| r.end);
        // The header to land on must be in the volume with the rest of its own header.
        let room = end.saturating_sub(address).saturating_sub(u64::from(full_len));
        let most = clock.last_within(room, records.unwrap_or(u64::from(u32::MAX)));
        let mut n = if records.is_some() { most } else { most.min(FIRST_RECORDS) };
        while n >= MIN_RECORDS {
            let last = left.filter(|_| records == Some(n)).map(|l| l - n * u64::from(record.len));
            if let Some(leap) = self.probe(volume, address, header, record, &clock, n, last)? {
                self.last_cool_down = 0;
                return Ok(Some(leap));
            }
            n /= 8;
        }
        self.last_cool_down = (self.last_cool_down * 2).clamp(16, COOL_DOWN_MAX);
        self.cool_down = self.last_cool_down;
        Ok(None)
    }

    /// Look whether record `n` stands where it must. `last`: its length when it is the file's last.
    #[expect(clippy::too_many_arguments, reason = "one fact each, all from the caller's loop")]
    fn probe(
        &mut self,
        volume: &Volume,
        address: Address,
        from: &block::Header,
        record: &record::Header,
        clock: &Arc<Clock>,
        n: u64,
        last: Option<u64>,
    ) -> Result<Option<Leap>> {
        let Some(tick) = clock.at(n) else { return Ok(None) };
        let number = u32::try_from(tick.blocks).ok().and_then(|b| from.number.checked_add(b));
        let Some(at) = address.checked_add(tick.bytes) else { return Ok(None) };
        let Some(header) = volume.block_header(at)? else { return Ok(None) };
        self.bytes_read += block::MAX_HEADER_LEN as u64;
        let fits = Some(header.number) == number
            && header.session == from.session
            && header.format == from.format
            && tick.offset + record::HEADER_LEN <= header.len
            && header.len <= clock.run().geometry.block_len;
        if !fits {
            return Ok(None);
        }
        let mut bytes = [0; record::HEADER_LEN as usize];
        let read = volume.medium().read_at(&mut bytes, at + u64::from(tick.offset))?;
        self.bytes_read += read as u64;
        let Some(found) = record::Header::parse(&bytes[..read]) else { return Ok(None) };
        let same = found.file_index == record.file_index && found.stream == record.stream;
        let len = last.map_or(u64::from(record.len), |l| l);
        if !same || u64::from(found.len) != len {
            return Ok(None);
        }
        let end = volume.medium().ranges()?.into_iter().find(|r| r.contains(&at)).map_or(at, |r| r.end);
        let present = u64::from(header.len).min(end - at) as u32;
        let full_len = clock.run().geometry.block_len;
        Ok(Some(Leap { address: at, header, present, tick, records: n, full_len, clock: Arc::clone(clock) }))
    }

    fn clock(&mut self, run: Run) -> Option<Arc<Clock>> {
        if let Some(known) = self.clocks.iter().find(|c| *c.run() == run) {
            return Some(Arc::clone(known));
        }
        let clock = Arc::new(Clock::new(run, u64::MAX)?);
        if self.clocks.len() == MAX_CLOCKS {
            self.clocks.remove(0);
        }
        self.clocks.push(Arc::clone(&clock));
        Some(clock)
    }
}
