//! The sending side of a connection, which several threads share.
//!
//! A message is always sent whole, so those of several threads can follow each other in any order.

use std::io;

use blockdev::MappedRun;
use parking_lot::Mutex;

use super::Transport;

/// Bytes that are read at a time when they cannot be sent from a file.
const PIECE: u64 = 256 << 10;

/// The sending side of a transport, for one thread at a time.
pub(crate) struct Sender<'a> {
    transport: &'a dyn Transport,
    lock: Mutex<()>,
}

impl<'a> Sender<'a> {
    pub(crate) const fn new(transport: &'a dyn Transport) -> Self {
        Self { transport, lock: Mutex::new(()) }
    }

    /// Whether [`send_runs`](Self::send_runs) saves anything.
    pub(crate) fn sends_files(&self) -> bool {
        self.transport.sends_files()
    }

    /// Send `bytes`.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let _one = self.lock.lock();
        self.transport.send_all(bytes)
    }

    /// Send `bytes`, and then `runs` straight from their files. What cannot be sent so, `read` delivers: bytes at an
    /// offset within the runs. It cannot fail, because the client has been told how many bytes will come.
    pub(crate) fn send_runs(
        &self,
        bytes: &[u8],
        runs: &[MappedRun<'_>],
        mut read: impl FnMut(&mut [u8], u64),
    ) -> io::Result<()> {
        let _one = self.lock.lock();
        self.transport.send_all(bytes)?;
        let mut start = 0;
        for run in runs {
            let mut sent = 0;
            while sent < run.len {
                let rest = MappedRun { file: run.file, offset: run.offset + sent, len: run.len - sent };
                let n = match self.transport.send_file(&rest) {
                    Ok(Some(n)) => n,
                    Ok(None) => {
                        let mut piece = vec![0; usize::try_from(rest.len.min(PIECE)).unwrap_or_default()];
                        read(&mut piece, start + sent);
                        self.transport.send_all(&piece)?;
                        piece.len()
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                    Err(e) => return Err(e),
                };
                sent += n as u64;
            }
            start += run.len;
        }
        Ok(())
    }
}
