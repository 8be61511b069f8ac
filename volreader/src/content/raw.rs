//! The payload bytes of a file's data records as one run of bytes, read straight into the caller's buffer.
//!
//! This is the bulk path: what a disk image is read through. A read is planned by arithmetic, block by block.
//! Blocks that follow each other in the volume are fetched with one `preadv` that scatters the payload into the
//! caller's buffer and the headers between into a scratch buffer; the checksum of a block that is verified for
//! the first time is computed over the pieces where they are. Such a block is read whole: at the ends of a read the
//! bytes that are not wanted go to scratch as well. Nothing is copied.

use std::{io::IoSliceMut, ops::Range, sync::Arc};

use blockdev::{Error, Result};

use crate::{
    block,
    layout::segments::{Segment, Segments},
    record,
    session::{SessionData, map::BlockPlace},
};

/// Buffers that one `preadv` may have (`IOV_MAX` is 1024).
const MAX_SLICES: usize = 512;
/// A record header and a block header, with room to spare: what lies between two runs of payload.
const GAP_MAX: u32 = 4096;

/// The payload of a file's data records.
#[derive(Debug)]
pub struct RawStream {
    /// The job's data.
    pub data: Arc<SessionData>,
    /// The records.
    pub segments: Segments,
    /// Bytes in front of each record's payload that are no content (the offset of sparse streams).
    pub skip: u32,
}

/// A run of wanted bytes within one block.
#[derive(Debug, Clone, Copy)]
struct Piece {
    offset: u32,
    len: u32,
}

/// What a read needs of one block.
#[derive(Debug, Default)]
struct Plan {
    number: u32,
    pieces: Vec<Piece>,
    /// Record headers in the block: place and expected contents, in order.
    headers: Vec<(u32, record::Header)>,
}

impl RawStream {
    /// Content bytes of one record of `run`.
    #[must_use]
    pub const fn content_len(&self, run: &Segment) -> u64 {
        run.record_len.saturating_sub(self.skip) as u64
    }

    /// Read bytes `range` of the content of record `n` of `run` and of the records after it, as far as `buf`
    /// goes within the run. Returns how many bytes.
    ///
    /// # Errors
    ///
    /// When a block cannot be read or does not verify; nothing of `buf` may then be used.
    pub fn read(&self, run: &Segment, n: u64, from: u64, buf: &mut [u8]) -> Result<usize> {
        if let Some(done) = self.read_verified(run, n, from, buf)? {
            return Ok(done);
        }
        let mut plans: Vec<Plan> = Vec::with_capacity(buf.len() / 64_000 + 2);
        run.expect(&self.data, n);
        let content = self.content_len(run);
        let (mut n, mut from, mut wanted) = (n, from, buf.len() as u64);
        while wanted > 0 && n < run.count {
            let take = wanted.min(content - from);
            self.plan_record(run, n, from..from + take, &mut plans)?;
            wanted -= take;
            (n, from) = (n + 1, 0);
        }
        let len = buf.len() - wanted as usize;
        self.execute(&plans, run, &mut buf[..len])?;
        Ok(len)
    }

    /// The common small read: wholly in one verified block. One `pread`, nothing else.
    fn read_verified(&self, run: &Segment, n: u64, from: u64, buf: &mut [u8]) -> Result<Option<usize>> {
        let end = from + buf.len() as u64 + u64::from(self.skip);
        let Some(start) = run.at(n).filter(|_| end <= u64::from(run.record_len)) else { return Ok(None) };
        let geometry = run.geometry();
        let from = from + u64::from(self.skip);
        let in_first = u64::from(geometry.block_len.saturating_sub(start.offset + record::HEADER_LEN));
        let (block, offset, room) = if from < in_first {
            (u64::from(start.block), u64::from(start.offset + record::HEADER_LEN) + from, in_first - from)
        } else {
            let body = u64::from(geometry.header_len + record::HEADER_LEN);
            let capacity = u64::from(geometry.block_len) - body;
            let behind = from - in_first;
            (u64::from(start.block) + 1 + behind / capacity, body + behind % capacity, capacity - behind % capacity)
        };
        let Some(number) = u32::try_from(block).ok().filter(|b| buf.len() as u64 <= room && !self.data.must_verify(*b))
        else {
            return Ok(None);
        };
        // Others may have had the block verified: that says nothing of whose records are in it.
        if !run.is_vouched(&self.data) {
            return Ok(None);
        }
        let Some(place) = self.data.place(number)? else { return Ok(None) };
        let volume = self.data.store().volume(place.volume)?;
        // A damaged length must not let a read run into the next block.
        if offset + buf.len() as u64 > u64::from(place.len) {
            return Ok(None);
        }
        if volume.is_encrypted() || volume.medium().read_at(buf, place.address + offset)? < buf.len() {
            return Ok(None);
        }
        Ok(Some(buf.len()))
    }

    /// Add what record `n` needs to the plan; `range` is in its content.
    fn plan_record(&self, run: &Segment, n: u64, range: Range<u64>, plans: &mut Vec<Plan>) -> Result<()> {
        let lost = || Error::damaged("the file's data goes on beyond what a job can hold");
        let start = run.at(n).ok_or_else(lost)?;
        let geometry = run.geometry();
        let range = range.start + u64::from(self.skip)..range.end + u64::from(self.skip);
        // The parts of the record, block by block.
        let (mut block, mut header_at, mut passed, mut left) = (start.block, start.offset, 0u64, run.record_len);
        let mut first = true;
        loop {
            let offset = header_at + record::HEADER_LEN;
            let here = left.min(geometry.block_len.saturating_sub(offset));
            let part = passed..passed + u64::from(here);
            let cut = part.start.max(range.start)..part.end.min(range.end);
            let stream = if first { self.segments.stream } else { -self.segments.stream };
            let header = record::Header { file_index: self.segments.file_index, stream, len: left };
            if part.end > range.start && cut.start < cut.end {
                if plans.last().is_none_or(|p| p.number != block) {
                    plans.push(Plan { number: block, ..Plan::default() });
                }
                if let Some(plan) = plans.last_mut() {
                    plan.headers.push((header_at, header));
                    plan.pieces.push(Piece {
                        offset: offset + (cut.start - part.start) as u32,
                        len: (cut.end - cut.start) as u32,
                    });
                }
            }
            passed = part.end;
            left -= here;
            if left == 0 || passed >= range.end {
                return Ok(());
            }
            block = block.checked_add(1).ok_or_else(lost)?;
            header_at = geometry.header_len;
            first = false;
        }
    }

    fn execute(&self, plans: &[Plan], run: &Segment, buf: &mut [u8]) -> Result<()> {
        let mut batch = Batch::new(self, run.geometry().header_len);
        let mut rest = buf;
        for plan in plans {
            let len = plan.pieces.iter().map(|p| p.len as usize).sum();
            let (dest, tail) = rest.split_at_mut(len);
            rest = tail;
            let place = self.data.place(plan.number)?;
            let place = place.ok_or_else(|| self.data.ends("inside this file"))?;
            let verify = self.data.must_verify(plan.number);
            let volume = self.data.store().volume(place.volume)?;
            // Encrypted blocks go through the cache. So do blocks of a run that may be another than was stored: there
            // each record's header is compared.
            if volume.is_encrypted() || (!verify && !run.is_vouched(&self.data)) {
                batch.flush()?;
                self.copy_from_cache(plan, dest)?;
            } else {
                batch.add(plan, place, verify, dest)?;
            }
        }
        batch.flush()
    }

    fn copy_from_cache(&self, plan: &Plan, dest: &mut [u8]) -> Result<()> {
        let block = self.data.block(plan.number)?;
        let block = block.ok_or_else(|| self.data.ends("inside this file"))?;
        let mut done = 0;
        for (&(at, expected), piece) in plan.headers.iter().zip(&plan.pieces) {
            let stored = block.bytes.get(at as usize..).and_then(record::Header::parse);
            let bytes = block.bytes.get(piece.offset as usize..(piece.offset + piece.len) as usize);
            let (Some(bytes), true) = (bytes, stored == Some(expected)) else {
                return Err(self.strange(plan.number));
            };
            dest[done..done + bytes.len()].copy_from_slice(bytes);
            done += bytes.len();
        }
        Ok(())
    }

    fn strange(&self, number: u32) -> Error {
        match self.data.place(number) {
            Ok(Some(place)) => self.data.damaged_at(&place, "the block holds other records than this file's"),
            _ => Error::damaged("a block holds other records than this file's"),
        }
    }
}

/// Blocks that are fetched with one `preadv`.
struct Batch<'a, 'b> {
    stream: &'a RawStream,
    header_len: u32,
    blocks: Vec<Wanted<'a>>,
    /// The caller's buffer, piece by piece, in order.
    dest: Vec<&'b mut [u8]>,
    slices: usize,
}

/// A block of a batch: the bytes `from..to` of it are read.
struct Wanted<'a> {
    plan: &'a Plan,
    place: BlockPlace,
    verify: bool,
    from: u32,
    to: u32,
}

impl<'a, 'b> Batch<'a, 'b> {
    const fn new(stream: &'a RawStream, header_len: u32) -> Self {
        Self { stream, header_len, blocks: Vec::new(), dest: Vec::new(), slices: 0 }
    }

    fn add(&mut self, plan: &'a Plan, place: BlockPlace, verify: bool, dest: &'b mut [u8]) -> Result<()> {
        let first = plan.pieces.first().map_or(0, |p| p.offset);
        let last = plan.pieces.last().map_or(0, |p| p.offset + p.len);
        let (from, to) = if verify { (0, place.len) } else { (first, last) };
        if last > place.len {
            return Err(self.stream.strange(plan.number));
        }
        let follows = self.blocks.last().is_some_and(|b| {
            let end = b.place.address + u64::from(b.to);
            let start = place.address + u64::from(from);
            b.place.volume == place.volume && start >= end && start - end <= u64::from(GAP_MAX)
        });
        if !follows || self.slices + 2 * plan.pieces.len() + 2 > MAX_SLICES {
            self.flush()?;
        }
        self.slices += 2 * plan.pieces.len() + 2;
        self.blocks.push(Wanted { plan, place, verify, from, to });
        let mut rest = dest;
        for piece in &plan.pieces {
            let (part, tail) = rest.split_at_mut(piece.len as usize);
            self.dest.push(part);
            rest = tail;
        }
        Ok(())
    }

    /// Read and verify what was added.
    fn flush(&mut self) -> Result<()> {
        let blocks = std::mem::take(&mut self.blocks);
        let dest = std::mem::take(&mut self.dest);
        self.slices = 0;
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { return Ok(()) };
        let start = first.place.address + u64::from(first.from);
        let volume = self.stream.data.store().volume(first.place.volume)?;
        let total = last.place.address + u64::from(last.to) - start;

        // Gaps (headers, foreign records) go to scratch. A block's share of the slices starts at a gap boundary.
        let mut gaps = Vec::with_capacity(blocks.len() * 3 + 1);
        let mut at = start;
        for b in &blocks {
            gaps.push(b.place.address + u64::from(b.from) - at);
            let mut p = b.from;
            for piece in &b.plan.pieces {
                gaps.push(u64::from(piece.offset - p));
                p = piece.offset + piece.len;
            }
            gaps.push(u64::from(b.to - p));
            at = b.place.address + u64::from(b.to);
        }
        let mut scratch = vec![0; gaps.iter().sum::<u64>() as usize];
        let mut scratch_rest = &mut scratch[..];
        let mut gap = gaps.into_iter();
        let mut take = || {
            let n = gap.next().unwrap_or(0) as usize;
            let (head, tail) = std::mem::take(&mut scratch_rest).split_at_mut(n);
            scratch_rest = tail;
            head
        };
        let mut slices: Vec<IoSliceMut<'_>> = Vec::with_capacity(blocks.len() * 6);
        let mut shares = Vec::with_capacity(blocks.len());
        let mut dest = dest.into_iter();
        for b in &blocks {
            slices.push(IoSliceMut::new(take()));
            let share = slices.len();
            for _ in &b.plan.pieces {
                slices.push(IoSliceMut::new(take()));
                slices.push(IoSliceMut::new(dest.next().unwrap_or_default()));
            }
            slices.push(IoSliceMut::new(take()));
            shares.push(share..slices.len());
        }
        read_fully(volume, &mut slices, start, total)?;
        for (b, share) in blocks.iter().zip(shares) {
            if b.verify {
                self.check(b, &slices[share])?;
            }
        }
        Ok(())
    }

    /// Verify a block that was read whole, where its pieces are now.
    fn check(&self, b: &Wanted<'_>, slices: &[IoSliceMut<'_>]) -> Result<()> {
        let data = &self.stream.data;
        let pieces: Vec<&[u8]> = slices.iter().map(|s| &**s).collect();
        let head = pieces.first().copied().unwrap_or_default();
        let header = data.check_header(head, b.plan.number, &b.place)?;
        if header.header_len() != self.header_len || header.len != b.place.len {
            return Err(data.damaged_at(&b.place, "the block has another length than the index says"));
        }
        data.verify(&header, &pieces, b.plan.number, &b.place)?;
        // The record headers stand at the ends of the gaps.
        let mut offset = 0;
        let mut expected = b.plan.headers.iter();
        let mut next = expected.next();
        for piece in &pieces {
            if let Some((at, header)) = next
                && let Some(k) = (*at).checked_sub(offset).filter(|k| *k as usize + 12 <= piece.len())
            {
                if record::Header::parse(&piece[k as usize..]) != Some(*header) {
                    return Err(self.stream.strange(b.plan.number));
                }
                next = expected.next();
            }
            offset += piece.len() as u32;
        }
        Ok(())
    }
}

/// Fill all slices; the system may stop in between (signals, very large reads).
fn read_fully(volume: &crate::volume::Volume, slices: &mut [IoSliceMut<'_>], start: u64, total: u64) -> Result<()> {
    let n = volume.medium().read_vectored_at(slices, start)? as u64;
    if n == total {
        return Ok(());
    }
    // Rare: finish slice by slice.
    let (mut at, mut done) = (start, n);
    for slice in slices {
        let len = slice.len() as u64;
        let have = done.min(len);
        done -= have;
        let rest = &mut slice[have as usize..];
        if !rest.is_empty() && volume.medium().read_at(rest, at + have)? < rest.len() {
            return Err(Error::damaged(format!("{}: the volume ends inside a block", volume.place(at))));
        }
        at += len;
    }
    Ok(())
}

const _: () = assert!(block::MIN_HEADER_LEN + record::HEADER_LEN as usize <= GAP_MAX as usize);
