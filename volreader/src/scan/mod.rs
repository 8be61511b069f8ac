//! Finds the jobs of a volume by hopping from header to header, never by reading data.
//!
//! The walk goes block by block and record by record. Inside a big uncompressed file it leaps: where the
//! file's last record must stand follows from the packing rules ([`crate::layout::clock`]), and when a block of
//! the right session with the right number and a record header with the right file, stream and length stand
//! exactly there, no other block can lie in between and none needs to be visited. Every block is checked again
//! when it is read.
//!
//! Damage is noted and stepped over: the walk looks for the next block by its magic and goes on.

pub mod job;
mod leap;
mod resync;
mod window;

use std::{
    collections::HashMap,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use blockdev::{Error, ErrorKind, Result};

use crate::{
    block::{self, MAX_HEADER_LEN, Session},
    index::entry::RecordPos,
    label::{self, SessionLabel},
    medium::Address,
    record,
    session::map::{BlockPlace, VolumeIndex},
    volume::Volume,
};
pub use job::JobScan;
use leap::Leaper;
pub use resync::next_block;
use window::Window;

/// The jobs that are being found, by session; a job that spans volumes goes on in the next scan.
pub type Jobs = HashMap<Session, JobScan>;

/// A range of a volume that is not what a Storage daemon writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The addresses.
    pub range: Range<Address>,
    /// What is wrong there.
    pub what: String,
}

/// How far a scan is, for progress bars and for cancelling it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of volumes that have been passed.
    pub passed: AtomicU64,
    /// Bytes of volumes to be passed.
    pub total: AtomicU64,
    /// Set to stop soon.
    pub cancel: AtomicBool,
}

/// What a scan of one volume came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Behind the last whole block.
    pub end: Address,
    /// What was damaged.
    pub damage: Vec<Damage>,
    /// For each session that was seen, the address of its first block in this volume.
    pub first_seen: HashMap<Session, Address>,
    /// The last whole block.
    pub last: Option<(Address, block::Header)>,
    /// Bytes that were really read.
    pub bytes_read: u64,
}

/// Damaged ranges that are noted for one volume; a volume full of garbage needs no more.
const MAX_DAMAGE: usize = 1000;

/// Walk `volume` from `from` (0: from its start) to its end and add what is found to `jobs`. `done` is called
/// with each session whose end label was seen.
///
/// # Errors
///
/// When the volume cannot be read at all; damage is part of the report instead.
pub fn scan(
    volume: &Volume,
    index: VolumeIndex,
    from: Address,
    jobs: &mut Jobs,
    progress: &Progress,
    done: &mut dyn FnMut(Session, JobScan) -> Result<()>,
) -> Result<Report> {
    let mut walk = Walk {
        volume,
        index,
        jobs,
        window: Window::new(volume.medium()),
        leaper: Leaper::default(),
        report: Report::default(),
        ended: Vec::new(),
        decrypted: None,
    };
    for range in volume.medium().ranges()? {
        let mut at = range.start.max(from);
        while at < range.end {
            if progress.cancel.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Limit, "indexing was cancelled"));
            }
            let next = walk.block(at, range.end)?;
            progress.passed.fetch_add(next - at, Ordering::Relaxed);
            at = next;
            for session in std::mem::take(&mut walk.ended) {
                if let Some(job) = walk.jobs.remove(&session) {
                    done(session, job)?;
                }
            }
        }
        walk.report.end = at.max(walk.report.end);
    }
    walk.report.bytes_read = walk.window.bytes_read + walk.leaper.bytes_read;
    Ok(walk.report)
}

struct Walk<'a> {
    volume: &'a Volume,
    index: VolumeIndex,
    jobs: &'a mut Jobs,
    window: Window<'a>,
    leaper: Leaper,
    report: Report,
    ended: Vec<Session>,
    /// The decrypted bytes of the encrypted block at an address.
    decrypted: Option<(Address, Vec<u8>)>,
}

/// A block under the walk.
#[derive(Clone, Copy)]
struct Block {
    address: Address,
    header: block::Header,
    /// Bytes of it that are there; less than its length when the volume is cut off.
    present: u32,
}

impl Walk<'_> {
    /// Walk the block at `at` and return where the next one starts.
    fn block(&mut self, at: Address, end: Address) -> Result<Address> {
        let Some(header) = block::Header::parse(self.window.get(at, MAX_HEADER_LEN)?) else {
            let next = next_block(self.volume, at + 1, end)?;
            self.damaged(at..next, "no block header");
            self.jobs.values_mut().for_each(JobScan::break_off);
            return Ok(next);
        };
        let present = u64::from(header.len).min(end - at) as u32;
        if present < header.len {
            self.damaged(at..end, "the volume ends inside a block");
        }
        if present == header.len {
            self.report.last = Some((at, header));
        }
        let next = self.records(Block { address: at, header, present })?;
        Ok(next.min(end))
    }

    /// Walk the records of a block; returns the address of the block to go on with.
    fn records(&mut self, mut block: Block) -> Result<Address> {
        let mut p = block.header.header_len();
        let mut entered = false;
        loop {
            let session = block.header.session;
            let place = BlockPlace { volume: self.index, address: block.address, len: block.header.len };
            // A length on the volume may have led anywhere.
            if block.present.checked_sub(p).is_none_or(|left| left < record::HEADER_LEN) {
                if !entered {
                    self.enter(session, block.header.number, place);
                }
                break;
            }
            let Some(header) = record::Header::parse(self.bytes(&block, p, record::HEADER_LEN)?) else { break };
            if header.is_label() && !self.label(&block, p, &header, &mut entered)? {
                break;
            }
            if header.is_label() {
                p = p.saturating_add(record::HEADER_LEN).saturating_add(header.len);
                continue;
            }
            if !entered {
                self.enter(session, block.header.number, place);
                entered = true;
            }
            if !header.is_plausible() {
                self.suspect(&block, "a record header that no Storage daemon writes");
                break;
            }
            let pos = RecordPos { block: block.header.number, offset: p };
            if let Some(leap) = self.leap(&block, p, &header)? {
                (block, p) = leap;
                continue;
            }
            let payload = p + record::HEADER_LEN;
            let part = header.len.min(block.header.len - payload);
            let here = part.min(block.present - payload);
            let first_in_block = p == block.header.header_len();
            // The payload is read only where the job wants it: attributes, and offsets of sparse data.
            let (window, volume, decrypted) = (&mut self.window, self.volume, &mut self.decrypted);
            let mut failed = None;
            let mut peek = |n: u32| {
                let n = n.min(here) as usize;
                match bytes_of(volume, window, decrypted, &block, payload, n) {
                    Ok(bytes) => bytes.to_vec(),
                    Err(e) => {
                        failed = Some(e);
                        Vec::new()
                    }
                }
            };
            let Some(job) = self.jobs.get_mut(&session) else { break };
            let step = job.record(&header, pos, part, first_in_block, &mut peek);
            if let Some(e) = failed {
                return Err(e);
            }
            if step == job::Step::Suspect {
                self.suspect(&block, "a record that does not follow from the one before");
            }
            p = payload + part;
        }
        Ok(block.address + u64::from(block.header.len))
    }

    /// The session's block begins.
    fn enter(&mut self, session: Session, number: u32, place: BlockPlace) {
        self.report.first_seen.entry(session).or_insert(place.address);
        let job = self.jobs.entry(session).or_default();
        job.begin_block(number);
        job.map.push(number, place);
    }

    /// A label record. Returns whether the walk goes on in this block.
    fn label(&mut self, block: &Block, p: u32, header: &record::Header, entered: &mut bool) -> Result<bool> {
        let Some(kind) = label::Type::of(header.file_index) else { return Ok(true) };
        if matches!(kind, label::Type::PreLabel | label::Type::Volume) {
            // The volume's own label has the number 0 and the session of the job that labelled it, but is none
            // of that job's blocks.
            return Ok(false);
        }
        let session = block.header.session;
        if !*entered {
            let place = BlockPlace { volume: self.index, address: block.address, len: block.header.len };
            self.enter(session, block.header.number, place);
            *entered = true;
        }
        let payload = p + record::HEADER_LEN;
        let len = header.len.min(block.present - payload);
        let end = kind == label::Type::EndOfSession;
        if !end && kind != label::Type::StartOfSession {
            return Ok(header.is_plausible());
        }
        let parsed = SessionLabel::parse(self.bytes(block, payload, len)?, end);
        match parsed {
            Ok(label) => {
                let Some(job) = self.jobs.get_mut(&session) else { return Ok(false) };
                if end {
                    job.finish_file();
                    job.end = Some(label);
                    self.ended.push(session);
                } else {
                    job.start = Some(label);
                }
                Ok(true)
            }
            Err(_) => {
                self.suspect(block, "a session label that cannot be read");
                Ok(false)
            }
        }
    }

    /// Leap over the middle of a big file, if this is one.
    fn leap(&mut self, block: &Block, p: u32, header: &record::Header) -> Result<Option<(Block, u32)>> {
        if block.header.encrypted || header.is_continuation() {
            return Ok(None);
        }
        let Some(job) = self.jobs.get_mut(&block.header.session) else { return Ok(None) };
        let Some(hint) = job.leap_hint(header) else { return Ok(None) };
        let full = job.map.full_block_len();
        let Some(leap) = self.leaper.try_leap(self.volume, (block.address, &block.header), p, header, hint, full)?
        else {
            return Ok(None);
        };
        let from = BlockPlace { volume: self.index, address: block.address, len: leap.full_len };
        let number = block.header.number;
        if leap.tick.blocks > 0 {
            // The block we stand in is in the map already; those behind it up to the one we land in are new.
            let landed = BlockPlace { volume: self.index, address: leap.address, len: leap.header.len };
            let mut shorts = leap.shorts().peekable();
            let first_len = shorts.next_if(|s| s.blocks == 0).map_or(leap.full_len, |s| s.len);
            let span = BlockPlace { address: from.address + u64::from(first_len), ..from };
            let behind = leap.tick.blocks as u32 - 1;
            if behind > 0 {
                let shorts = shorts.map(|s| crate::layout::clock::ShortBlock { blocks: s.blocks - 1, ..s });
                job.map.push_span(number + 1, behind, span, shorts);
            }
            job.map.push(leap.header.number, landed);
        }
        job.leapt_to(leap.header.number);
        job.leapt_over(header.stream, leap.records, header.len);
        let present = leap.present;
        Ok(Some((Block { address: leap.address, header: leap.header, present }, leap.tick.offset)))
    }

    fn bytes(&mut self, block: &Block, offset: u32, len: u32) -> Result<&[u8]> {
        bytes_of(self.volume, &mut self.window, &mut self.decrypted, block, offset, len as usize)
    }

    fn suspect(&mut self, block: &Block, what: &str) {
        let end = block.address + u64::from(block.header.len);
        self.damaged(block.address..end, what);
        if let Some(job) = self.jobs.get_mut(&block.header.session) {
            job.break_off();
        }
    }

    fn damaged(&mut self, range: Range<Address>, what: &str) {
        let damage = &mut self.report.damage;
        if damage.len() < MAX_DAMAGE && damage.last().is_none_or(|d| d.range != range) {
            damage.push(Damage { range, what: what.to_owned() });
        }
    }
}

/// Bytes of a block by their offset in it, decrypted where need be; fewer than `len` when the volume is cut off.
fn bytes_of<'b>(
    volume: &Volume,
    window: &'b mut Window<'_>,
    decrypted: &'b mut Option<(Address, Vec<u8>)>,
    block: &Block,
    offset: u32,
    len: usize,
) -> Result<&'b [u8]> {
    if !block.header.encrypted {
        return window.get(block.address + u64::from(offset), len);
    }
    if decrypted.as_ref().is_none_or(|(at, _)| *at != block.address) {
        *decrypted = Some((block.address, volume.read_block(block.address, &block.header)?));
    }
    let bytes = decrypted.as_ref().map_or(&[][..], |(_, b)| b);
    let start = (offset as usize).min(bytes.len());
    Ok(&bytes[start..(start + len).min(bytes.len())])
}
