//! What is done for a request ("Request types").

use std::{io, time::Instant};

use blockdev::{BlockDevice, Error, ErrorKind, Extent, ExtentKind, WriteAt};
use rustix::fs::Advice;

use super::{
    super::{
        export::Disk,
        protocol::{Errno, command, flag},
    },
    Format, Session,
    outbox::Outbox,
    request::Request,
};

/// Runs of the device that a `CACHE` request looks at, at most.
const CACHED_RUNS: usize = 1024;

/// Why a request is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) message: std::borrow::Cow<'static, str>,
    /// The first byte that could not be delivered, where that is known.
    pub(super) offset: Option<u64>,
}

impl Refusal {
    pub(super) const fn new(errno: Errno, message: &'static str) -> Self {
        Self { errno, message: std::borrow::Cow::Borrowed(message), offset: None }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let errno = match error.kind() {
            ErrorKind::NoSpace => Errno::NoSpace,
            ErrorKind::Invalid => Errno::Invalid,
            ErrorKind::Locked => Errno::Perm,
            _ => Errno::Io,
        };
        Self { errno, message: error.to_string().into(), offset: None }
    }
}

/// Does requests, one at a time. Each thread of a session has one.
pub(super) struct Executor<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) out: Outbox<'a>,
    /// Whether the device was slow for the request that was done last.
    pub(super) slow: bool,
    /// The extent that was looked at last, of a device that cannot change.
    extent: Option<Extent>,
}

impl<'a> Executor<'a> {
    pub(super) fn new(session: &'a Session<'a>) -> Self {
        Self { session, out: Outbox::new(&session.sender, session.format), slow: false, extent: None }
    }

    /// Send the replies that were gathered.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub(super) fn device(&self) -> &'a dyn BlockDevice {
        self.session.export.disk.device()
    }

    /// Whether the device was slow for the request that was done last.
    pub(super) const fn was_slow(&self) -> bool {
        self.slow
    }

    /// Have the device do something for `bytes` bytes, and see how long it takes. What the client takes to receive
    /// replies is another matter.
    fn timed<T>(&mut self, bytes: u64, work: impl FnOnce() -> T) -> T {
        let (result, slow) = timed(self.session, bytes, work);
        self.slow |= slow;
        result
    }

    /// The end of the extent at `offset`, and what it holds. It is found once for all requests that it covers: a file
    /// of the host may have to look at each page for that.
    pub(super) fn extent_end(&mut self, offset: u64) -> blockdev::Result<(u64, ExtentKind)> {
        if let Some(known) = self.extent.as_ref().filter(|extent| extent.range.contains(&offset)) {
            return Ok((known.range.end, known.kind));
        }
        let device = self.device();
        let found = self.timed(0, || device.extent_at(offset))?.filter(|extent| extent.range.contains(&offset));
        // Data that nobody can say more about.
        let Some(extent) = found else { return Ok((u64::MAX, ExtentKind::Data)) };
        let end_and_kind = (extent.range.end, extent.kind);
        if matches!(self.session.export.disk, Disk::ReadOnly(_)) {
            self.extent = Some(extent);
        }
        Ok(end_and_kind)
    }

    /// Whether a request makes sense, before anything is done for it.
    pub(super) fn check(&self, request: &Request) -> Result<(), Refusal> {
        let format = self.session.format;
        let (known, writes) = match request.command {
            command::READ => (if format == Format::Simple { 0 } else { flag::DF }, false),
            command::WRITE => (if format == Format::Extended { flag::PAYLOAD_LEN } else { 0 }, true),
            command::FLUSH | command::CACHE => (0, false),
            command::TRIM => (0, true),
            command::WRITE_ZEROES => (flag::NO_HOLE | flag::FAST_ZERO, true),
            command::BLOCK_STATUS => (flag::REQ_ONE, false),
            _ => return Err(Refusal::new(Errno::Invalid, "this server does not know this command")),
        };
        if request.flags & !(known | flag::FUA) != 0 {
            return Err(Refusal::new(Errno::Invalid, "this command does not take these flags"));
        }
        if writes && self.session.export.disk.writable().is_none() {
            return Err(Refusal::new(Errno::Perm, "this export is read-only"));
        }
        if request.command == command::FLUSH {
            return Ok(());
        }
        if request.offset.checked_add(request.length).is_none_or(|end| end > self.device().size()) {
            let errno = match request.command {
                command::WRITE | command::WRITE_ZEROES => Errno::NoSpace,
                _ => Errno::Invalid,
            };
            return Err(Refusal::new(errno, "this range ends past the end of the export"));
        }
        let largest = u64::from(self.session.limits.request);
        match request.command {
            command::READ if request.length > largest => {
                let errno = if format == Format::Simple { Errno::Invalid } else { Errno::Overflow };
                Err(Refusal::new(errno, "this is more than the server reads at a time"))
            }
            command::WRITE if request.length > largest => {
                Err(Refusal::new(Errno::Invalid, "this is more than the server writes at a time"))
            }
            command::BLOCK_STATUS if self.session.contexts.is_empty() => {
                Err(Refusal::new(Errno::Invalid, "no metadata context was chosen"))
            }
            command::BLOCK_STATUS if request.length == 0 => Err(Refusal::new(Errno::Invalid, "the status of nothing")),
            _ => Ok(()),
        }
    }

    /// Do a request that was checked, and reply to it.
    pub(super) fn run(&mut self, request: &Request, payload: &[u8]) -> io::Result<()> {
        let range = request.offset..request.offset.saturating_add(request.length);
        self.slow = false;
        let done = match request.command {
            command::READ => return self.read(request),
            command::BLOCK_STATUS => return self.block_status(request),
            command::WRITE => self.change(request, |disk| disk.write_at(payload, request.offset)),
            command::TRIM => self.change(request, |disk| disk.discard(range)),
            command::WRITE_ZEROES => self.write_zeroes(request),
            command::CACHE => {
                self.cache(request);
                Ok(())
            }
            _ => self.flush_disk().map_err(Refusal::from),
        };
        match done {
            Ok(()) => self.out.done(request),
            Err(refusal) => self.fail(request, &refusal),
        }
    }

    /// Reply that a request was not done.
    pub(super) fn fail(&mut self, request: &Request, refusal: &Refusal) -> io::Result<()> {
        self.out.failed(request, refusal.errno, &refusal.message, refusal.offset)
    }

    fn flush_disk(&mut self) -> blockdev::Result<()> {
        // There is nothing to flush where nothing can be written.
        let Some(disk) = self.session.export.disk.writable() else { return Ok(()) };
        self.timed(0, || disk.flush())
    }

    /// Change the disk, durably where that was asked for.
    fn change(
        &mut self,
        request: &Request,
        change: impl FnOnce(&dyn WriteAt) -> blockdev::Result<()>,
    ) -> Result<(), Refusal> {
        let Some(disk) = self.session.export.disk.writable() else {
            return Err(Refusal::new(Errno::Perm, "this export is read-only"));
        };
        if request.length > 0 {
            self.timed(request.length, || change(disk))?;
        }
        if request.has(flag::FUA) {
            self.flush_disk()?;
        }
        Ok(())
    }

    fn write_zeroes(&mut self, request: &Request) -> Result<(), Refusal> {
        let keep = request.has(flag::NO_HOLE);
        // Zeros that are not stored are always quicker than writing them; those that keep their room may not be.
        if keep && request.has(flag::FAST_ZERO) {
            return Err(Refusal::new(Errno::NotSupported, "zeros that keep their room may be slow"));
        }
        let range = request.offset..request.offset.saturating_add(request.length);
        self.change(request, |disk| disk.write_zeroes(range, keep))
    }

    /// Have the host read ahead what lies in its files; the rest comes when it is read.
    fn cache(&self, request: &Request) {
        let (mut offset, mut left) = (request.offset, request.length);
        for _ in 0..CACHED_RUNS {
            let Some(run) = self.device().map(offset, left).filter(|run| run.len > 0) else { return };
            let len = run.len.min(left);
            // A hint, like the request.
            let _ = rustix::fs::fadvise(run.file, run.offset, std::num::NonZeroU64::new(len), Advice::WillNeed);
            offset = offset.saturating_add(len);
            left -= len;
        }
    }
}

/// Do a piece of work with the device of a session, and say whether it was slow.
pub(super) fn timed<T>(session: &Session<'_>, bytes: u64, work: impl FnOnce() -> T) -> (T, bool) {
    let started = Instant::now();
    let result = work();
    (result, session.pace.note(started.elapsed(), bytes))
}
