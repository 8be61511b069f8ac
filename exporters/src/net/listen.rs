//! Sockets that clients connect to.

use std::{
    fmt, fs, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::FileTypeExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use blockdev::{Error, ErrorKind, Result};

use super::transport::Socket;

/// Where a server listens, or a client comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a socket; empty when it has none.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    address: Address,
    /// A socket file that was made here and is removed in the end.
    made: Option<PathBuf>,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listen at each address that `at` stands for (`127.0.0.1:10809`, `[::]:10809`, `host.example:10809`). Port 0 is
    /// any free port.
    ///
    /// # Errors
    ///
    /// When there is no such address, or it is in use.
    pub fn tcp(at: &str) -> Result<Vec<Self>> {
        let cannot = |e| Error::io(format!("cannot listen at {at}"), e);
        let mut listeners: Vec<Self> = Vec::new();
        for address in at.to_socket_addrs().map_err(cannot)? {
            // "localhost" may stand twice for the same address.
            if !listeners.iter().any(|listener| listener.address == Address::Tcp(address)) {
                listeners.push(Self::from_tcp(TcpListener::bind(address).map_err(cannot)?).map_err(cannot)?);
            }
        }
        Ok(listeners)
    }

    /// Listen at a new socket file. One that a dead server left behind is replaced.
    ///
    /// # Errors
    ///
    /// When the path is in use by another server or by something that is not a socket, or cannot be made.
    pub fn unix(path: &Path) -> Result<Self> {
        let cannot = |e| Error::io(format!("cannot listen at {}", path.display()), e);
        let listener = match UnixListener::bind(path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_dead_socket(path) => {
                fs::remove_file(path).map_err(cannot)?;
                UnixListener::bind(path)
            }
            bound => bound,
        }
        .map_err(cannot)?;
        let mut listener = Self::from_unix(listener).map_err(cannot)?;
        listener.made = Some(path.to_owned());
        Ok(listener)
    }

    /// The sockets that systemd, or whoever speaks its protocol (`LISTEN_PID`, `LISTEN_FDS`), hands over. Empty when
    /// there are none. They can be taken once.
    ///
    /// # Errors
    ///
    /// When one is neither a TCP nor a Unix stream socket that listens.
    pub fn activated() -> Result<Vec<Self>> {
        let mut given = listenfd::ListenFd::from_env();
        let mut listeners = Vec::new();
        for number in 0..given.len() {
            let cannot = |e| {
                let what = format!("cannot use socket {number} of socket activation; give TCP or Unix stream sockets");
                Error::new(ErrorKind::Invalid, what).with_source(e)
            };
            let tcp = given.take_tcp_listener(number);
            let listener = match tcp {
                Ok(Some(tcp)) => Self::from_tcp(tcp),
                _ => match given.take_unix_listener(number).map_err(cannot)? {
                    Some(unix) => Self::from_unix(unix),
                    None => continue,
                },
            };
            listeners.push(listener.map_err(cannot)?);
        }
        Ok(listeners)
    }

    fn from_tcp(listener: TcpListener) -> io::Result<Self> {
        // Accepting must not wait: who was announced may be gone again.
        listener.set_nonblocking(true)?;
        let address = Address::Tcp(listener.local_addr()?);
        Ok(Self { kind: Kind::Tcp(listener), address, made: None })
    }

    fn from_unix(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let path = listener.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
        Ok(Self { kind: Kind::Unix(listener), address: Address::Unix(path), made: None })
    }

    /// Where it listens; for port 0, the port that it got.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The next client, and where it is. `None` when nobody waits.
    pub(crate) fn accept(&self) -> io::Result<Option<(Socket, Address)>> {
        let accepted = match &self.kind {
            Kind::Tcp(listener) => listener.accept().and_then(|(socket, peer)| {
                socket.set_nonblocking(false)?;
                Ok((Socket::Tcp(socket), Address::Tcp(peer)))
            }),
            Kind::Unix(listener) => listener.accept().and_then(|(socket, _)| {
                socket.set_nonblocking(false)?;
                Ok((Socket::Unix(socket), self.address.clone()))
            }),
        };
        match accepted {
            Ok(client) => Ok(Some(client)),
            Err(e) => match e.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(e),
            },
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(listener) => listener.as_fd(),
            Kind::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            // Somebody else may have removed it.
            let _ = fs::remove_file(path);
        }
    }
}

fn is_dead_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}
