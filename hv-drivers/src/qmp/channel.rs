//! Lines of JSON over a Unix socket, each way with a deadline.

use std::{
    io::{ErrorKind as IoKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// The longest line that is taken, in bytes; QEMU's own schema, the longest answer there is, has 200 KiB.
const LINE_MAX: usize = 4 << 20;
/// Bytes received at once.
const CHUNK: usize = 16 << 10;

/// A socket and what was received of the next line.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    /// For messages.
    peer: String,
    received: Vec<u8>,
    /// How much of `received` was searched for a line's end.
    searched: usize,
}

impl Channel {
    /// A connection to the socket at `path`, called `what` in messages.
    ///
    /// # Errors
    ///
    /// `NotFound` when nobody listens there.
    pub fn connect(path: &Path, what: &str) -> Result<Self> {
        let peer = format!("{what} at {}", path.display());
        let stream = UnixStream::connect(path).map_err(|e| {
            let nobody = matches!(e.kind(), IoKind::ConnectionRefused | IoKind::NotFound);
            let kind = if nobody { ErrorKind::NotFound } else { ErrorKind::Io };
            Error::new(kind, format!("cannot connect to the {peer}")).with_source(e)
        })?;
        Ok(Self { stream, peer, received: Vec::new(), searched: 0 })
    }

    /// What it is called.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The process at the other end, as far as the system tells.
    pub fn process(&self) -> Option<i32> {
        let credentials = rustix::net::sockopt::socket_peercred(&self.stream).ok()?;
        Some(credentials.pid.as_raw_nonzero().get())
    }

    /// Send bytes.
    ///
    /// # Errors
    ///
    /// When the peer has gone, or does not take them in time.
    pub fn send(&mut self, bytes: &[u8], until: Instant) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let timeout = Some(left(until).ok_or_else(|| self.late())?);
            self.stream.set_write_timeout(timeout).map_err(|e| self.broken(e))?;
            match self.stream.write(rest) {
                Ok(0) => return Err(self.gone()),
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(self.broken(e)),
            }
        }
        Ok(())
    }

    /// The next line; `None` when none has arrived by `until`.
    ///
    /// # Errors
    ///
    /// When the peer has gone or sends a line that is too long.
    pub fn line(&mut self, until: Instant) -> Result<Option<Vec<u8>>> {
        loop {
            let fresh = self.received.get(self.searched..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|b| *b == b'\n') {
                let rest = self.received.split_off(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(std::mem::replace(&mut self.received, rest)));
            }
            self.searched = self.received.len();
            if self.searched > LINE_MAX {
                return Err(Error::new(
                    ErrorKind::Limit,
                    format!("{} sends a line of more than {LINE_MAX} bytes", self.peer),
                ));
            }
            let Some(timeout) = left(until) else { return Ok(None) };
            self.stream.set_read_timeout(Some(timeout)).map_err(|e| self.broken(e))?;
            let mut chunk = [0; CHUNK];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(self.gone()),
                Ok(n) => self.received.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(self.broken(e)),
            }
        }
    }

    /// The next line as JSON; `None` when none has arrived by `until`.
    ///
    /// # Errors
    ///
    /// As [`line`](Self::line), and when it is no JSON.
    pub fn message(&mut self, until: Instant) -> Result<Option<Value>> {
        let Some(line) = self.line(until)? else { return Ok(None) };
        let message = serde_json::from_slice(&line);
        message.map(Some).map_err(|e| Error::damaged(format!("{} sends what is no JSON", self.peer)).with_source(e))
    }

    /// The peer did not answer in time.
    pub fn late(&self) -> Error {
        Error::new(ErrorKind::Io, format!("{} does not answer; something else may be connected to it", self.peer))
    }

    fn gone(&self) -> Error {
        Error::new(ErrorKind::NotFound, format!("{} has closed the connection", self.peer))
    }

    fn broken(&self, error: std::io::Error) -> Error {
        let gone = matches!(error.kind(), IoKind::BrokenPipe | IoKind::ConnectionReset);
        let kind = if gone { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, format!("the connection to the {} is broken", self.peer)).with_source(error)
    }
}

/// How long it is until `until`; `None` when that is past.
fn left(until: Instant) -> Option<Duration> {
    until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// The timeout of a single call has passed, or a signal came: the caller's deadline decides.
fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), IoKind::WouldBlock | IoKind::TimedOut | IoKind::Interrupted)
}
