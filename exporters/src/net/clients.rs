//! Which machines may connect.

use std::net::IpAddr;

use blockdev::{Error, Result};
use ipnet::IpNet;

use super::Address;

/// Ports that only root may use, on machines where that means something.
const PRIVILEGED: u16 = 1024;

/// Networks whose machines may connect.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    networks: Vec<IpNet>,
    privileged: bool,
}

impl Clients {
    /// The machines of `networks`, each an address or a network in CIDR notation; all machines when there is none.
    /// With `privileged` they have to come from a port that only their root may use.
    ///
    /// # Errors
    ///
    /// When one is neither.
    pub fn new<'a>(networks: impl IntoIterator<Item = &'a str>, privileged: bool) -> Result<Self> {
        let parse = |text: &str| {
            let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            net.map_err(|_| {
                Error::invalid(format!("{text:?} is neither an address nor a network such as 192.168.7.0/24"))
            })
        };
        let networks = networks.into_iter().map(parse).collect::<Result<_>>()?;
        Ok(Self { networks, privileged })
    }

    /// The networks as text; empty when all machines may connect.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.networks.iter().map(|net| match net.prefix_len() == net.max_prefix_len() {
            true => net.addr().to_string(),
            false => net.to_string(),
        })
    }

    /// Whether `peer` may connect; otherwise why not.
    pub(crate) fn admits(&self, peer: &Address) -> std::result::Result<(), String> {
        // Who can open a socket file was let in by its permissions.
        let Address::Tcp(peer) = peer else { return Ok(()) };
        // An IPv4 client of an IPv6 socket.
        let address = peer.ip().to_canonical();
        if !self.networks.is_empty() && !self.networks.iter().any(|net| net.contains(&address)) {
            return Err("its address is not among those that are allowed".into());
        }
        if self.privileged && peer.port() >= PRIVILEGED {
            return Err(format!("it comes from port {}, which is not privileged", peer.port()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(networks: &[&str], privileged: bool, peer: &str) -> bool {
        let clients = Clients::new(networks.iter().copied(), privileged).unwrap();
        clients.admits(&Address::Tcp(peer.parse().unwrap())).is_ok()
    }

    #[test]
    fn by_network_and_port() {
        assert!(admitted(&[], false, "203.0.113.9:40000"));
        let networks = ["192.168.7.0/24", "10.1.2.3", "fd00::/8"];
        assert!(admitted(&networks, false, "192.168.7.200:40000"));
        assert!(admitted(&networks, false, "[::ffff:192.168.7.200]:40000"));
        assert!(admitted(&networks, false, "10.1.2.3:40000"));
        assert!(admitted(&networks, false, "[fd12::1]:40000"));
        assert!(!admitted(&networks, false, "10.1.2.4:40000"));
        assert!(!admitted(&networks, false, "192.168.8.1:40000"));
        assert!(!admitted(&[], true, "10.1.2.3:1024"));
        assert!(admitted(&[], true, "10.1.2.3:1023"));
        assert!(Clients::new(["10.1.2.3/33"], false).is_err());
        assert!(Clients::new(["example.org"], false).is_err());
    }

    #[test]
    fn single_machines_are_named_without_a_prefix() {
        let clients = Clients::new(["10.0.0.0/8", "10.1.2.3", "::1"], false).unwrap();
        assert_eq!(clients.names().collect::<Vec<_>>(), ["10.0.0.0/8", "10.1.2.3", "::1"]);
    }
}
