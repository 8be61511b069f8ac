//! The server.

use std::{
    io,
    net::UdpSocket,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use blockdev::Result;

use super::{
    Clients, export::Export, limits::Limits, portmap::Ports, replies::Replies, session::Programs, udp::Datagrams,
};
use crate::net::{self, Address, Listener, Service, Transport};

/// Settings of a server.
#[derive(Debug, Default)]
pub struct Config {
    /// Bounds.
    pub limits: Limits,
    /// Who may connect.
    pub clients: Clients,
}

/// The sockets that a server listens at. Each program is served at each; where they are is what clients are told.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For files, and for all that has no socket of its own.
    pub nfs: Vec<Listener>,
    /// For the MOUNT protocol.
    pub mount: Vec<Listener>,
    /// For the port mapper.
    pub portmap: Vec<Listener>,
    /// For its datagrams.
    pub portmap_datagrams: Option<UdpSocket>,
}

/// A running server. When it is dropped, its clients are cut off; [`shutdown`](Self::shutdown) is the polite way.
pub struct Server {
    server: net::Server<Nfs>,
    datagrams: Option<Datagrams>,
}

struct Nfs(Arc<Programs>);

impl Server {
    /// Serve `export` at `sockets`.
    ///
    /// # Errors
    ///
    /// When there is no socket for files, or the system refuses a thread.
    pub fn start(config: Config, export: Export, sockets: Sockets) -> Result<Self> {
        let Sockets { nfs, mount, portmap, portmap_datagrams } = sockets;
        let nfs_port = port(&nfs).unwrap_or(0);
        let ports = Ports { nfs: nfs_port, mount: port(&mount).unwrap_or(nfs_port), portmap: port(&portmap) };
        let Config { limits, clients } = config;
        let programs = Arc::new(Programs { export, limits, clients, ports, replies: Replies::default() });
        let listeners = if nfs.is_empty() { nfs } else { nfs.into_iter().chain(mount).chain(portmap).collect() };
        let server = net::Server::start(Nfs(programs.clone()), listeners)?;
        let datagrams = portmap_datagrams.map(|socket| Datagrams::start(programs, socket)).transpose()?;
        Ok(Self { server, datagrams })
    }

    /// Where it listens: for files, for MOUNT, for the port mapper, each in the order of the listeners.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        self.server.addresses()
    }

    /// How many clients are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// End: accept nobody any more, answer all requests that have arrived, and hang up. Clients that do not take their
    /// replies within `grace` are cut off.
    pub fn shutdown(mut self, grace: Duration) {
        self.datagrams = None;
        self.server.shutdown(grace);
    }
}

/// The TCP port of the first listener that has one.
fn port(listeners: &[Listener]) -> Option<u16> {
    listeners.iter().find_map(|listener| match listener.address() {
        Address::Tcp(address) => Some(address.port()),
        Address::Unix(_) => None,
    })
}

impl Service for Nfs {
    const PROTOCOL: &'static str = "NFS";

    fn connections(&self) -> usize {
        self.0.limits.connections
    }

    fn stall(&self) -> Duration {
        self.0.limits.stall
    }

    fn admits(&self, peer: &Address) -> std::result::Result<(), String> {
        self.0.clients.admits(peer)
    }

    fn serve(&self, transport: &Arc<dyn Transport>, draining: &AtomicBool) -> io::Result<()> {
        match self.0.serve(transport.as_ref(), draining) {
            // Many clients leave without a word, and come back when they want something.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => Ok(()),
            served => served,
        }
    }

    fn report(&self, what: &str) {
        self.0.export.report.tell(what);
    }
}

/// Serve one client of `export` over `transport`, for whoever has a connection and no socket.
///
/// # Errors
///
/// When what the client sends are no calls, or the connection breaks or stalls.
pub fn serve(config: Config, export: Export, transport: &dyn Transport) -> io::Result<()> {
    let Config { limits, clients } = config;
    let programs = Programs { export, limits, clients, ports: Ports::default(), replies: Replies::default() };
    programs.serve(transport, &AtomicBool::new(false))
}
