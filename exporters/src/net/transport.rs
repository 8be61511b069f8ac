//! What a connection runs over: a socket, an encrypted socket, or memory in a fuzz target.

use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use blockdev::MappedRun;
use parking_lot::Mutex;
use rustix::{io::Errno, net::sockopt};

/// A stream of bytes in both directions that several threads may share: one receives while others send.
///
/// A session never receives from two threads at a time, and never sends from two.
pub trait Transport: Send + Sync {
    /// Wait for bytes and return how many came; 0 is the end of the stream.
    ///
    /// # Errors
    ///
    /// `WouldBlock` or `TimedOut` when nothing came in time, others when the connection is broken.
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize>;

    /// Send some of the bytes and return how many.
    ///
    /// # Errors
    ///
    /// When the connection is broken or the peer takes nothing for too long.
    fn send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Whether [`send_file`](Self::send_file) is worth a try.
    fn sends_files(&self) -> bool {
        false
    }

    /// Send some bytes of a file without copying them through this process, and return how many. `None` where that
    /// cannot be done.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    fn send_file(&self, _run: &MappedRun<'_>) -> io::Result<Option<usize>> {
        Ok(None)
    }

    /// The address that the peer has connected to, where there is one.
    fn local_address(&self) -> Option<SocketAddr> {
        None
    }

    /// The moment at which everything has to be done; `None` for no such moment.
    fn set_deadline(&self, deadline: Option<Instant>);

    /// End the connection in both directions. Whoever waits in [`recv`](Self::recv) or [`send`](Self::send) returns.
    fn close(&self);

    /// Send all of `bytes`.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.send(&[IoSlice::new(bytes)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// What a Unix socket may hold on its way to the client (measured: half as much again at 1 MiB reads, several at a
/// time). The system may allow less. TCP sizes its buffers itself, better.
const UNIX_BUFFER: usize = 2 << 20;

/// A connected socket of either family.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
        }
    }
}

/// A socket as a transport.
#[derive(Debug)]
pub(crate) struct SocketTransport {
    socket: Socket,
    /// Tells whether there is a deadline without taking the lock.
    hurried: AtomicBool,
    deadline: Mutex<Option<Instant>>,
    stall: Duration,
}

impl SocketTransport {
    /// A socket, and how long a peer may keep us waiting once the handshake is over.
    pub(crate) fn new(socket: Socket, stall: Duration) -> io::Result<Self> {
        if let Socket::Tcp(tcp) = &socket {
            tcp.set_nodelay(true)?;
            // A peer that vanished without a word is found out: no request, no data, no answer to probes.
            sockopt::set_socket_keepalive(tcp, true)?;
            sockopt::set_tcp_keepidle(tcp, Duration::from_secs(60))?;
            sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(15))?;
            sockopt::set_tcp_keepcnt(tcp, 8)?;
        }
        if let Socket::Unix(unix) = &socket {
            sockopt::set_socket_send_buffer_size(unix, UNIX_BUFFER)?;
        }
        let transport = Self { socket, hurried: AtomicBool::new(false), deadline: Mutex::new(None), stall };
        transport.set_timeouts(stall)?;
        Ok(transport)
    }

    fn set_timeouts(&self, time: Duration) -> io::Result<()> {
        // Zero would mean "for ever".
        let time = Some(time.max(Duration::from_millis(1)));
        match &self.socket {
            Socket::Tcp(s) => s.set_read_timeout(time).and_then(|()| s.set_write_timeout(time)),
            Socket::Unix(s) => s.set_read_timeout(time).and_then(|()| s.set_write_timeout(time)),
        }
    }

    fn hurry(&self) -> io::Result<()> {
        let Some(deadline) = *self.deadline.lock() else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.set_timeouts(left)
    }

    /// Let the peer finish: nothing more is received than what is already here.
    pub(crate) fn stop_receiving(&self) {
        // Fails only when the peer has gone already.
        let _ = match &self.socket {
            Socket::Tcp(s) => s.shutdown(Shutdown::Read),
            Socket::Unix(s) => s.shutdown(Shutdown::Read),
        };
    }
}

impl Transport for SocketTransport {
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        if self.hurried.load(Ordering::Relaxed) {
            self.hurry()?;
        }
        match &self.socket {
            Socket::Tcp(s) => (&mut &*s).read(buf),
            Socket::Unix(s) => (&mut &*s).read(buf),
        }
    }

    fn send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.hurried.load(Ordering::Relaxed) {
            self.hurry()?;
        }
        match &self.socket {
            Socket::Tcp(s) => (&mut &*s).write_vectored(bytes),
            Socket::Unix(s) => (&mut &*s).write_vectored(bytes),
        }
    }

    fn sends_files(&self) -> bool {
        true
    }

    fn send_file(&self, run: &MappedRun<'_>) -> io::Result<Option<usize>> {
        if self.hurried.load(Ordering::Relaxed) {
            self.hurry()?;
        }
        let mut offset = run.offset;
        let len = usize::try_from(run.len).unwrap_or(usize::MAX);
        match rustix::fs::sendfile(&self.socket, run.file, Some(&mut offset), len) {
            // The file has ended, or is of a kind that cannot do this, or cannot be read: whoever reads it will know.
            Ok(0) | Err(Errno::INVAL | Errno::NOSYS | Errno::IO | Errno::OPNOTSUPP) => Ok(None),
            Ok(n) => Ok(Some(n)),
            Err(e) => Err(e.into()),
        }
    }

    fn local_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(s) => s.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    fn set_deadline(&self, deadline: Option<Instant>) {
        *self.deadline.lock() = deadline;
        self.hurried.store(deadline.is_some(), Ordering::Relaxed);
        if deadline.is_none() {
            // Fails only when the peer has gone, and then the next call says so.
            let _ = self.set_timeouts(self.stall);
        }
    }

    fn close(&self) {
        // Fails only when the peer has gone already.
        let _ = match &self.socket {
            Socket::Tcp(s) => s.shutdown(Shutdown::Both),
            Socket::Unix(s) => s.shutdown(Shutdown::Both),
        };
    }
}
