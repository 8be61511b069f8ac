//! What has been received and not yet been used.

use std::io;

use super::Transport;

/// Room for what one call receives: some two thousand requests without payload.
const CAPACITY: usize = 64 << 10;

/// A buffer in front of a [`Transport`].
#[derive(Debug)]
pub(crate) struct Input {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; CAPACITY].into_boxed_slice(), start: 0, end: 0 }
    }

    /// The bytes that are here.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// The next `N` bytes, if they are here.
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = *self.bytes().first_chunk::<N>()?;
        self.start += N;
        Some(taken)
    }

    /// Leave out the next `n` bytes, which are here.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start += n.min(self.end - self.start);
    }

    /// Receive more, in the middle of a message or before one: in the middle when something is here that was not taken.
    /// `false` is the end of the stream between messages.
    ///
    /// # Errors
    ///
    /// When the stream ends or stalls within a message, and when the connection is broken.
    pub(crate) fn fill(&mut self, transport: &dyn Transport) -> io::Result<bool> {
        self.fill_more(transport, self.end > self.start)
    }

    /// The same, for who knows whether it is `within` a message.
    ///
    /// # Errors
    ///
    /// As [`fill`](Self::fill).
    pub(crate) fn fill_more(&mut self, transport: &dyn Transport, within: bool) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let n = match receive(transport, self.buffer.get_mut(self.end..).unwrap_or_default(), within)? {
            0 if within => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Ok(false),
            n => n,
        };
        self.end += n;
        Ok(true)
    }

    /// Fill `out` with the next bytes, receiving what is not here yet.
    ///
    /// # Errors
    ///
    /// When the stream ends or stalls, or the connection is broken.
    pub(crate) fn read_exact(&mut self, transport: &dyn Transport, out: &mut [u8]) -> io::Result<()> {
        let here = self.bytes();
        let n = here.len().min(out.len());
        let (first, mut rest) = out.split_at_mut(n);
        first.copy_from_slice(here.get(..n).unwrap_or_default());
        self.start += n;
        while !rest.is_empty() {
            let n = match receive(transport, rest, true)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => n,
            };
            rest = rest.get_mut(n..).unwrap_or_default();
        }
        Ok(())
    }

    /// Throw the next `len` bytes away.
    ///
    /// # Errors
    ///
    /// As [`read_exact`](Self::read_exact).
    pub(crate) fn skip(&mut self, transport: &dyn Transport, mut len: u64) -> io::Result<()> {
        loop {
            let n = usize::try_from(len).unwrap_or(usize::MAX).min(self.end - self.start);
            self.start += n;
            len -= n as u64;
            if len == 0 {
                return Ok(());
            }
            if !self.fill(transport)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Receive once; between messages for as long as it takes.
fn receive(transport: &dyn Transport, buf: &mut [u8], within: bool) -> io::Result<usize> {
    loop {
        match transport.recv(buf) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && !within => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            done => return done,
        }
    }
}
