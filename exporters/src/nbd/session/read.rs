//! `READ`.

use std::io::{self, IoSliceMut};

use blockdev::{Error, ExtentKind, MappedRun};
use rustix::io::{Errno as HostErrno, ReadWriteFlags, preadv2};
use zerocopy::IntoBytes;

use super::{
    super::{
        export::Disk,
        protocol::{Errno, Hole, chunk, flag},
    },
    Format, Session,
    execute::{Executor, Refusal, timed},
    request::Request,
};

/// Longer data is sent in several chunks, so that it is sent while more is read, and stays in the processor's cache.
const CHUNK: u64 = 256 << 10;
/// Shorter requests are not looked up: reading zeros is as quick.
const LOOKED_UP_FROM: u64 = 16 << 10;
/// Shorter holes are sent as data.
const HOLE_FROM: u64 = 4 << 10;
/// Extents that are looked up to find the end of a chunk, at most.
const LOOKUPS: usize = 64;

/// Shorter runs of host files are read into the buffer of the replies: one system call less (measured).
const MAPPED_FROM: u64 = 64 << 10;
/// Runs of a chunk, at most.
const MAPPED_RUNS: usize = 64;

/// A part of a read that becomes one chunk.
struct Part {
    len: u64,
    hole: bool,
}

impl Executor<'_> {
    /// Deliver the bytes that a request asks for.
    pub(super) fn read(&mut self, request: &Request) -> io::Result<()> {
        if request.length == 0 {
            return self.out.done(request);
        }
        if self.out.format() == Format::Simple {
            return self.read_simple(request);
        }
        let end = request.offset.saturating_add(request.length);
        let mut offset = request.offset;
        while offset < end {
            if let Some(sent) = self.read_mapped(request, offset, end)? {
                match sent {
                    Ok(len) => offset += len,
                    Err(refusal) => return self.fail(request, &refusal),
                }
                if offset == end {
                    return self.out.done(request);
                }
                continue;
            }
            let part = if request.has(flag::DF) {
                Part { len: end - offset, hole: false }
            } else {
                self.next_part(offset, end - offset, request.length)
            };
            let done = offset + part.len >= end;
            if part.hole {
                let length = u32::try_from(part.len).unwrap_or(u32::MAX);
                let hole = Hole { offset: offset.into(), length: length.into() };
                self.out.whole_chunk(request, chunk::OFFSET_HOLE, done, hole.as_bytes())?;
            } else if let Err(refusal) = self.read_chunk(request, offset, part.len, done)? {
                return self.fail(request, &refusal);
            }
            offset += part.len;
        }
        Ok(())
    }

    fn read_simple(&mut self, request: &Request) -> io::Result<()> {
        let len = usize::try_from(request.length).unwrap_or(usize::MAX);
        let (session, slow) = (self.session, &mut self.slow);
        let read = self.out.simple(request, 0, len, |buf| fill(session, slow, buf, request.offset))?;
        match read {
            Ok(()) => Ok(()),
            Err(refusal) => self.fail(request, &refusal),
        }
    }

    fn read_chunk(&mut self, request: &Request, offset: u64, len: u64, done: bool) -> io::Result<Result<(), Refusal>> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let at = offset.to_be_bytes();
        let (session, slow) = (self.session, &mut self.slow);
        self.out.chunk(request, chunk::OFFSET_DATA, done, &at, len, |buf| fill(session, slow, buf, offset))
    }

    /// Send what lies in files of the host from there, as far as it goes. `None` when that is not far enough to be
    /// worth it, or not allowed: what is sent so may be read by the client much later, so it must not change.
    fn read_mapped(&mut self, request: &Request, offset: u64, end: u64) -> io::Result<Option<Result<u64, Refusal>>> {
        if end - offset < MAPPED_FROM || request.has(flag::DF) || matches!(self.session.export.disk, Disk::Writable(_))
        {
            return Ok(None);
        }
        let left = match self.extent_at(offset, end - offset) {
            Some((len, false)) if len >= MAPPED_FROM => len,
            _ => return Ok(None),
        };
        if !self.session.sender.sends_files() {
            return Ok(None);
        }
        let device = self.device();
        let mut runs: Vec<MappedRun<'_>> = Vec::new();
        let mut len = 0;
        while len < left && runs.len() < MAPPED_RUNS {
            let Some(mut run) = device.map(offset + len, left - len).filter(|run| run.len > 0) else { break };
            run.len = run.len.min(left - len);
            len += run.len;
            runs.push(run);
        }
        if len < MAPPED_FROM || !in_memory(&runs) {
            return Ok(None);
        }
        let (session, slow) = (self.session, &mut self.slow);
        let mut refused = None;
        let read = |buf: &mut [u8], at: u64| {
            if let Err(refusal) = fill(session, slow, buf, offset + at) {
                buf.fill(0);
                refused.get_or_insert(refusal);
            }
        };
        self.out.mapped_chunk(request, offset, &runs, read)?;
        Ok(Some(refused.map_or(Ok(len), Err)))
    }

    /// What the next chunk holds, of `left` bytes at `offset` of a request for `requested` bytes.
    fn next_part(&mut self, offset: u64, left: u64, requested: u64) -> Part {
        let data = |len: u64| Part { len, hole: false };
        if requested < LOOKED_UP_FROM {
            return data(left);
        }
        // Up to two chunks' worth is one chunk: an end that is a little longer costs less than one more chunk.
        let most = if left < 2 * CHUNK { left } else { CHUNK };
        let mut len = 0;
        for _ in 0..LOOKUPS {
            let Some((run, hole)) = self.extent_at(offset + len, left - len) else { return data(most) };
            if hole && run >= HOLE_FROM.min(left - len) {
                return if len == 0 { Part { len: run, hole: true } } else { data(len) };
            }
            len += run;
            if len >= most {
                break;
            }
        }
        data(len.min(most).max(1))
    }

    /// How far what is at `offset` goes, up to `left` bytes, and whether it is a hole.
    fn extent_at(&mut self, offset: u64, left: u64) -> Option<(u64, bool)> {
        // Where it cannot be told, reading will say why.
        let (end, kind) = self.extent_end(offset).ok()?;
        Some(((end - offset).min(left), kind == ExtentKind::Hole))
    }
}

/// Whether runs look as if they could be sent at once. What the host has to fetch first is read, so that other replies
/// need not wait for it, and so that it is seen that the disk is slow.
fn in_memory(runs: &[MappedRun<'_>]) -> bool {
    let here = |run: &MappedRun<'_>, at: u64| {
        let mut byte = [0];
        let read = preadv2(run.file, &mut [IoSliceMut::new(&mut byte)], run.offset + at, ReadWriteFlags::NOWAIT);
        // Not every filesystem can tell.
        matches!(read, Ok(1) | Err(HostErrno::OPNOTSUPP))
    };
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return false };
    here(first, 0) && here(last, last.len.saturating_sub(1))
}

/// Read all of `buf`, or say why not.
fn fill(session: &Session<'_>, slow: &mut bool, buf: &mut [u8], offset: u64) -> Result<(), Refusal> {
    let refused = |error: Error| {
        let refusal = Refusal::from(error);
        // A read that fails is the device's fault, whatever the device thinks.
        let errno = if refusal.errno == Errno::Perm { Errno::Perm } else { Errno::Io };
        Refusal { errno, offset: Some(offset), ..refusal }
    };
    let (read, was_slow) = timed(session, buf.len() as u64, || session.export.disk.device().read_at(buf, offset));
    *slow |= was_slow;
    let read = read.map_err(refused)?;
    if read < buf.len() {
        return Err(refused(Error::damaged(format!("the disk ended at byte {}", offset + read as u64))));
    }
    Ok(())
}
