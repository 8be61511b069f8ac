//! A server: accepts clients, keeps count of them, and ends in good order. What it says to them is a [`Service`].

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

use blockdev::{Error, Result};
use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{
    listen::{Address, Listener},
    transport::{Socket, SocketTransport, Transport},
};

/// How long accepting rests after an error such as too many open files.
const REST: Duration = Duration::from_millis(100);

/// Is told, in one line each, what went wrong with clients.
pub type Report = Box<dyn Fn(&str) + Send + Sync>;

/// A protocol that is spoken with clients.
pub(crate) trait Service: Send + Sync + 'static {
    /// What it is called in messages.
    const PROTOCOL: &'static str;

    /// Connections at a time; one more is closed as soon as it is accepted.
    fn connections(&self) -> usize;

    /// Time that a peer may take to go on with a message that it began, or to take more of one that it is sent.
    fn stall(&self) -> Duration;

    /// Whether to speak with the client at `peer`; otherwise why not.
    fn admits(&self, _peer: &Address) -> std::result::Result<(), String> {
        Ok(())
    }

    /// Serve a client until it leaves, or until the server is `draining` and all requests that had arrived have been
    /// answered.
    ///
    /// # Errors
    ///
    /// When the client breaks the protocol in a way that cannot be answered, or the connection breaks or stalls.
    fn serve(&self, transport: &Arc<dyn Transport>, draining: &AtomicBool) -> io::Result<()>;

    /// Is told what went wrong with clients.
    fn report(&self, what: &str);
}

/// A running server. When it is dropped, its clients are cut off; [`shutdown`](Self::shutdown) is the polite way.
pub(crate) struct Server<S: Service> {
    shared: Arc<Shared<S>>,
    addresses: Vec<Address>,
    wake: Arc<OwnedFd>,
    acceptor: Option<JoinHandle<()>>,
}

/// What the acceptor and the connections share.
struct Shared<S> {
    service: S,
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
struct Registration<S> {
    shared: Arc<Shared<S>>,
    id: u64,
}

impl<S> Drop for Registration<S> {
    fn drop(&mut self) {
        if let Some(transport) = self.shared.connections.lock().open.remove(&self.id) {
            transport.close();
        }
        self.shared.ended.notify_all();
    }
}

impl<S: Service> Server<S> {
    /// Serve the clients of `listeners`.
    ///
    /// # Errors
    ///
    /// When there are no listeners, or the system refuses a thread.
    pub(crate) fn start(service: S, listeners: Vec<Listener>) -> Result<Self> {
        let protocol = S::PROTOCOL;
        if listeners.is_empty() {
            return Err(Error::invalid(format!("a server of {protocol} needs an address or a socket to listen at")));
        }
        let cannot = |e| Error::io(format!("cannot start a server of {protocol}"), e);
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| cannot(e.into()))?);
        let shared = Arc::new(Shared {
            service,
            draining: AtomicBool::new(false),
            connections: Mutex::default(),
            ended: Condvar::new(),
        });
        let addresses = listeners.iter().map(|listener| listener.address().clone()).collect();
        let body = {
            let (shared, wake) = (shared.clone(), wake.clone());
            move || shared.accept(&listeners, &wake)
        };
        let acceptor = thread::Builder::new().name(thread_name::<S>("accept")).spawn(body).map_err(cannot)?;
        Ok(Self { shared, addresses, wake, acceptor: Some(acceptor) })
    }

    /// What it says to clients.
    pub(crate) fn service(&self) -> &S {
        &self.shared.service
    }

    /// Where it listens, in the order of the listeners.
    pub(crate) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// How many clients are connected.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.lock().open.len()
    }

    /// End: accept nobody any more, answer all requests that have arrived, and hang up. Clients that do not take their
    /// replies within `grace` are cut off.
    pub(crate) fn shutdown(&mut self, grace: Duration) {
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

impl<S: Service> Drop for Server<S> {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

fn thread_name<S: Service>(role: &str) -> String {
    format!("{}-{role}", S::PROTOCOL.to_ascii_lowercase())
}

impl<S: Service> Shared<S> {
    fn report(&self, what: &str) {
        self.service.report(what);
    }

    /// The acceptor's life.
    fn accept(self: &Arc<Self>, listeners: &[Listener], wake: &OwnedFd) {
        let mut waiting: Vec<_> = listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)).collect();
        waiting.push(PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN));
        while !self.draining.load(Ordering::SeqCst) {
            match poll(&mut waiting, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    self.report(&format!("cannot wait for {} clients: {e}", S::PROTOCOL));
                    thread::sleep(REST);
                }
            }
            for listener in listeners {
                match listener.accept() {
                    Ok(Some((socket, peer))) => self.begin(socket, &peer),
                    Ok(None) => {}
                    Err(e) => {
                        let at = listener.address();
                        self.report(&format!("cannot accept {} clients at {at}: {e}", S::PROTOCOL));
                        thread::sleep(REST);
                    }
                }
            }
        }
    }

    /// Give a new client a thread.
    fn begin(self: &Arc<Self>, socket: Socket, peer: &Address) {
        let client = format!("{} client {peer}", S::PROTOCOL);
        if let Err(why) = self.service.admits(peer) {
            return self.report(&format!("{client} refused: {why}"));
        }
        let most = self.service.connections();
        if self.connections.lock().open.len() >= most {
            return self.report(&format!("{client} refused: {most} clients are connected already"));
        }
        let transport = match SocketTransport::new(socket, self.service.stall()) {
            Ok(transport) => Arc::new(transport),
            Err(e) => return self.report(&format!("{client}: cannot set up its socket: {e}")),
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
            let transport: Arc<dyn Transport> = transport;
            if let Err(e) = shared.service.serve(&transport, &shared.draining) {
                shared.report(&format!("{client}: {e}"));
            }
        };
        // On failure the closure is dropped, and with it the registration.
        if let Err(e) = thread::Builder::new().name(thread_name::<S>("client")).spawn(body) {
            self.report(&format!("cannot start a thread for an {} client: {e}", S::PROTOCOL));
        }
    }
}
