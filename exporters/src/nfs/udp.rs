//! The port mapper's datagrams.

use std::{
    io,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use blockdev::{Error, Result};

use super::{session::Programs, xdr::Encoder};
use crate::net::Address;

/// Longest question.
const LONGEST: usize = 1024;
/// How often the end is looked for.
const TICK: Duration = Duration::from_millis(250);

/// A thread that answers datagrams, until this is dropped.
pub(super) struct Datagrams {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Datagrams {
    pub(super) fn start(programs: Arc<Programs>, socket: UdpSocket) -> Result<Self> {
        let cannot = |e| Error::io("cannot answer datagrams to the port mapper", e);
        socket.set_read_timeout(Some(TICK)).map_err(cannot)?;
        let ending = Arc::new(AtomicBool::new(false));
        let end = ending.clone();
        let body = move || {
            let (mut buffer, mut out) = ([0; LONGEST], Encoder::default());
            while !end.load(Ordering::Relaxed) {
                match socket.recv_from(&mut buffer) {
                    Ok((n, peer)) if programs.clients.admits(&Address::Tcp(peer)).is_ok() => {
                        out.truncate(0);
                        let message = buffer.get(..n).unwrap_or_default();
                        if programs.datagram(message, &mut out).is_ok() {
                            // Who asked may be gone.
                            let _ = socket.send_to(out.bytes(), peer);
                        }
                    }
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock || e.kind() == io::ErrorKind::Interrupted => {}
                    // An answer that could not be delivered.
                    Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                    Err(_) => thread::sleep(TICK),
                }
            }
        };
        let thread = thread::Builder::new().name("nfs-portmap".into()).spawn(body).map_err(cannot)?;
        Ok(Self { ending, thread: Some(thread) })
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics in nothing.
            let _ = thread.join();
        }
    }
}
