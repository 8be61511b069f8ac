//! `READ`.

use std::io;

use blockdev::{Error, ExtentKind};
use zerocopy::IntoBytes;

use super::{
    super::protocol::{Errno, Hole, chunk, flag},
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
