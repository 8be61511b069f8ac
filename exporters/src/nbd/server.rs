//! The server: accepts clients, keeps count of them, and ends in good order.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use blockdev::{Error, Result, WriteAt};
use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{
    export::{Disk, Exports},
    limits::Limits,
    listen::{Address, Listener},
    negotiation::{Negotiation, Outcome},
    session,
    tls::Tls,
    transport::{Socket, SocketTransport, Transport},
};

/// How long accepting rests after an error such as too many open files.
const REST: Duration = Duration::from_millis(100);

/// Is told, in one line each, what went wrong with clients.
pub type Report = Box<dyn Fn(&str) + Send + Sync>;

/// Settings of a server.
#[derive(Default)]
pub struct Config {
    /// Bounds.
    pub limits: Limits,
    /// Encryption, if it is offered.
    pub tls: Option<Tls>,
    /// Who is told what went wrong with clients.
    pub report: Option<Report>,
}

/// A running server. When it is dropped, its clients are cut off; [`shutdown`](Self::shutdown) is the polite way.
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<Address>,
    wake: Arc<OwnedFd>,
    acceptor: Option<JoinHandle<()>>,
}

/// What the acceptor and the connections share.
struct Shared {
    config: Config,
    exports: Arc<Exports>,
    draining: AtomicBool,
    connections: Mutex<Connections>,
    /// A connection has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Connections {
    next: u64,
    open: HashMap<u64, Arc<SocketTransport>>,
}

/// Takes a connection off the list when it ends, however it ends.
struct Registration {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(transport) = self.shared.connections.lock().open.remove(&self.id) {
            transport.close();
        }
        self.shared.ended.notify_all();
    }
}

impl Server {
    /// Serve `exports` to clients of `listeners`.
    ///
    /// # Errors
    ///
    /// When there are no listeners, or the system refuses a thread.
    pub fn start(config: Config, exports: Arc<Exports>, listeners: Vec<Listener>) -> Result<Self> {
        if listeners.is_empty() {
            return Err(Error::invalid("an NBD server needs an address or a socket to listen at"));
        }
        let cannot = |e| Error::io("cannot start an NBD server", e);
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| cannot(e.into()))?);
        let shared = Arc::new(Shared {
            config,
            exports,
            draining: AtomicBool::new(false),
            connections: Mutex::default(),
            ended: Condvar::new(),
        });
        let addresses = listeners.iter().map(|listener| listener.address().clone()).collect();
        let body = {
            let (shared, wake) = (shared.clone(), wake.clone());
            move || shared.accept(&listeners, &wake)
        };
        let acceptor = thread::Builder::new().name("nbd-accept".into()).spawn(body).map_err(cannot)?;
        Ok(Self { shared, addresses, wake, acceptor: Some(acceptor) })
    }

    /// Where it listens, in the order of the listeners.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// How many clients are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.lock().open.len()
    }

    /// End: accept nobody any more, answer all requests that have arrived, refuse those that come after, hang up, and
    /// make durable what was written. Clients that do not take their replies within `grace` are cut off.
    ///
    /// # Errors
    ///
    /// When a disk cannot be made durable.
    pub fn shutdown(mut self, grace: Duration) -> Result<()> {
        let exports = self.shared.exports.clone();
        self.stop(grace);
        for export in exports.list() {
            if let Disk::Writable(disk) = &export.disk {
                WriteAt::flush(disk.as_ref()).map_err(|e| e.context(format!("NBD export {:?}", export.name)))?;
            }
        }
        Ok(())
    }

    fn stop(&mut self, grace: Duration) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.draining.store(true, Ordering::SeqCst);
        // An eventfd takes this unless its counter is full, and then the acceptor is awake.
        let _ = rustix::io::write(self.wake.as_ref(), &1_u64.to_ne_bytes());
        // It panics in nothing; and if it did, there would be nothing to wait for.
        let _ = acceptor.join();
        let until = Instant::now() + grace;
        let mut connections = self.shared.connections.lock();
        connections.open.values().for_each(|transport| transport.stop_receiving());
        while !connections.open.is_empty() {
            if self.shared.ended.wait_until(&mut connections, until).timed_out() {
                break;
            }
        }
        // Those that are left are cut off. A thread whose device does not answer is left behind.
        connections.open.values().for_each(|transport| transport.close());
        let until = Instant::now() + Duration::from_secs(1);
        while !connections.open.is_empty() {
            if self.shared.ended.wait_until(&mut connections, until).timed_out() {
                break;
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl Shared {
    fn report(&self, what: &str) {
        if let Some(report) = &self.config.report {
            report(what);
        }
    }

    /// The acceptor's life.
    fn accept(self: &Arc<Self>, listeners: &[Listener], wake: &OwnedFd) {
        let mut waiting: Vec<_> = listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)).collect();
        waiting.push(PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN));
        while !self.draining.load(Ordering::SeqCst) {
            match poll(&mut waiting, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    self.report(&format!("cannot wait for NBD clients: {e}"));
                    thread::sleep(REST);
                }
            }
            for listener in listeners {
                match listener.accept() {
                    Ok(Some((socket, peer))) => self.begin(socket, peer),
                    Ok(None) => {}
                    Err(e) => {
                        self.report(&format!("cannot accept NBD clients at {}: {e}", listener.address()));
                        thread::sleep(REST);
                    }
                }
            }
        }
    }

    /// Give a new client a thread.
    fn begin(self: &Arc<Self>, socket: Socket, peer: String) {
        let limits = &self.config.limits;
        if self.connections.lock().open.len() >= limits.connections {
            self.report(&format!("NBD client {peer} refused: {} clients are connected already", limits.connections));
            return;
        }
        let transport = match SocketTransport::new(socket, limits.stall) {
            Ok(transport) => Arc::new(transport),
            Err(e) => return self.report(&format!("NBD client {peer}: cannot set up its socket: {e}")),
        };
        let id = {
            let mut connections = self.connections.lock();
            connections.next += 1;
            let id = connections.next;
            connections.open.insert(id, transport.clone());
            id
        };
        let registration = Registration { shared: self.clone(), id };
        let body = move || {
            let shared = &registration.shared;
            if let Err(e) = shared.serve(&transport) {
                shared.report(&format!("NBD client {peer}: {e}"));
            }
        };
        // On failure the closure is dropped, and with it the registration.
        if let Err(e) = thread::Builder::new().name("nbd-client".into()).spawn(body) {
            self.report(&format!("cannot start a thread for an NBD client: {e}"));
        }
    }

    /// A connection's life.
    fn serve(&self, transport: &Arc<SocketTransport>) -> io::Result<()> {
        let Config { limits, tls, .. } = &self.config;
        transport.set_deadline(Some(Instant::now() + limits.handshake));
        let negotiation = Negotiation { exports: &self.exports, tls: tls.as_ref(), limits, draining: &self.draining };
        match negotiation.run(transport.clone())? {
            Outcome::Left => Ok(()),
            Outcome::Agreed(agreement) => {
                transport.set_deadline(None);
                session::serve(*agreement, limits, &self.draining)
            }
        }
    }
}
