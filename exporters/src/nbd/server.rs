//! The server: exports, and clients that choose one.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use blockdev::{Result, WriteAt};

use super::{
    export::{Disk, Exports},
    limits::Limits,
    negotiation::{Negotiation, Outcome},
    session,
    tls::Tls,
};
use crate::net::{self, Address, Clients, Listener, Report, Service, Transport};

/// Settings of a server.
#[derive(Default)]
pub struct Config {
    /// Bounds.
    pub limits: Limits,
    /// Which machines may connect.
    pub clients: Clients,
    /// Encryption, if it is offered.
    pub tls: Option<Tls>,
    /// Who is told what went wrong with clients.
    pub report: Option<Report>,
}

/// A running server. When it is dropped, its clients are cut off; [`shutdown`](Self::shutdown) is the polite way.
pub struct Server(net::Server<Nbd>);

/// What clients are told.
struct Nbd {
    config: Config,
    exports: Arc<Exports>,
}

impl Server {
    /// Serve `exports` to clients of `listeners`.
    ///
    /// # Errors
    ///
    /// When there are no listeners, or the system refuses a thread.
    pub fn start(config: Config, exports: Arc<Exports>, listeners: Vec<Listener>) -> Result<Self> {
        net::Server::start(Nbd { config, exports }, listeners).map(Self)
    }

    /// Where it listens, in the order of the listeners.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        self.0.addresses()
    }

    /// How many clients are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.connections()
    }

    /// End: accept nobody any more, answer all requests that have arrived, refuse those that come after, hang up, and
    /// make durable what was written. Clients that do not take their replies within `grace` are cut off.
    ///
    /// # Errors
    ///
    /// When a disk cannot be made durable.
    pub fn shutdown(mut self, grace: Duration) -> Result<()> {
        self.0.shutdown(grace);
        for export in self.0.service().exports.list() {
            if let Disk::Writable(disk) = &export.disk {
                WriteAt::flush(disk.as_ref()).map_err(|e| e.context(format!("NBD export {:?}", export.name)))?;
            }
        }
        Ok(())
    }
}

impl Service for Nbd {
    const PROTOCOL: &'static str = "NBD";

    fn connections(&self) -> usize {
        self.config.limits.connections
    }

    fn stall(&self) -> Duration {
        self.config.limits.stall
    }

    fn admits(&self, peer: &Address) -> std::result::Result<(), String> {
        self.config.clients.admits(peer)
    }

    fn serve(&self, transport: &Arc<dyn Transport>, draining: &AtomicBool) -> io::Result<()> {
        let Config { limits, tls, .. } = &self.config;
        transport.set_deadline(Some(Instant::now() + limits.handshake));
        let negotiation = Negotiation { exports: &self.exports, tls: tls.as_ref(), limits, draining };
        match negotiation.run(transport.clone())? {
            Outcome::Left => Ok(()),
            Outcome::Agreed(agreement) => {
                transport.set_deadline(None);
                session::serve(*agreement, limits, draining)
            }
        }
    }

    fn report(&self, what: &str) {
        if let Some(report) = &self.config.report {
            report(what);
        }
    }
}

/// The URI of the export `name` of a server at `address`, as the NBD project has them.
#[must_use]
pub fn uri(address: &Address, name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b'@' | b':' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    match address {
        Address::Tcp(address) => format!("nbd://{address}/{escaped}"),
        Address::Unix(path) => format!("nbd+unix:///{escaped}?socket={}", path.display()),
    }
}
