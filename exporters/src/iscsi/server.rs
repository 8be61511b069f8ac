//! The server: targets, and clients that log in to them.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use blockdev::Result;

use super::{
    limits::Limits,
    login::{self, Outcome},
    session,
    target::Targets,
};
use crate::net::{self, Address, Clients, Listener, Report, Service, Transport};

/// Settings of a server.
#[derive(Default)]
pub struct Config {
    /// Bounds.
    pub limits: Limits,
    /// Which machines may connect.
    pub clients: Clients,
    /// Who is told what went wrong with clients.
    pub report: Option<Report>,
    /// The address that initiators are told, where they reach the server by another than it sees (address translation).
    pub portal: Option<SocketAddr>,
}

/// A running server. When it is dropped, its clients are cut off; [`shutdown`](Self::shutdown) is the polite way.
pub struct Server(net::Server<Iscsi>);

/// What clients are told.
struct Iscsi {
    config: Config,
    targets: Arc<Targets>,
}

impl Server {
    /// Serve `targets` to clients of `listeners`.
    ///
    /// # Errors
    ///
    /// When there are no listeners, or the system refuses a thread.
    pub fn start(config: Config, targets: Arc<Targets>, listeners: Vec<Listener>) -> Result<Self> {
        net::Server::start(Iscsi { config, targets }, listeners).map(Self)
    }

    /// Where it listens, in the order of the listeners.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        self.0.addresses()
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.connections()
    }

    /// Its targets.
    #[must_use]
    pub fn targets(&self) -> &Arc<Targets> {
        &self.0.service().targets
    }

    /// End: accept nobody any more, do all commands that have arrived, tell initiators that it ends, hang up, and make
    /// durable what was written. Clients that do not take their replies within `grace` are cut off.
    ///
    /// # Errors
    ///
    /// When a disk cannot be made durable.
    pub fn shutdown(mut self, grace: Duration) -> Result<()> {
        self.0.shutdown(grace);
        for target in self.0.service().targets.list() {
            for (lun, unit) in target.units() {
                if let Some(disk) = unit.disk().writable() {
                    disk.flush().map_err(|e| e.context(format!("unit {lun} of {}", target.name())))?;
                }
            }
        }
        Ok(())
    }
}

impl Service for Iscsi {
    const PROTOCOL: &'static str = "iSCSI";

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
        serve(&self.config, &self.targets, transport, draining)
    }

    fn report(&self, what: &str) {
        if let Some(report) = &self.config.report {
            report(what);
        }
    }
}

/// Serve one connection until it ends, or until the server is `draining` and all commands that had arrived are done. The
/// transport is closed then.
///
/// # Errors
///
/// When the client breaks the protocol in a way that cannot be answered, or the connection breaks or stalls.
pub fn serve(
    config: &Config,
    targets: &Targets,
    transport: &Arc<dyn Transport>,
    draining: &AtomicBool,
) -> io::Result<()> {
    transport.set_deadline(Some(Instant::now() + config.limits.login));
    let portal = config.portal.or_else(|| transport.local_address());
    let entered = login::run(transport, &config.limits, targets);
    let served = entered.and_then(|outcome| match outcome {
        Outcome::Left => Ok(()),
        Outcome::Agreed(agreement) => {
            transport.set_deadline(None);
            session::serve(*agreement, &config.limits, targets, portal, draining)
        }
    });
    transport.close();
    served
}
