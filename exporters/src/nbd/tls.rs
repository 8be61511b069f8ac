//! Encryption with certificates (`proto.md`, "TLS support").

use std::{
    io::{self, IoSlice, Read, Write},
    sync::Arc,
    time::Instant,
};

use blockdev::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::net::Transport;

/// Whether clients have to encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// They may.
    Optional,
    /// They must: before that they learn nothing, not even the names of exports.
    Required,
}

/// A server's certificate and its rules.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    mode: TlsMode,
}

impl Tls {
    /// TLS 1.3 with the certificate chain and the private key of two PEM texts. With `client_ca`, clients need a
    /// certificate that one of the authorities in that PEM text issued. `old` allows TLS 1.2, too.
    ///
    /// # Errors
    ///
    /// When a text holds no certificate or key, the two do not belong together, or their kind is not supported.
    pub fn new(certificate: &[u8], key: &[u8], client_ca: Option<&[u8]>, mode: TlsMode, old: bool) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let versions: &[_] =
            if old { &[&rustls::version::TLS13, &rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|e| failed("cannot set up TLS", e))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => builder.with_client_cert_verifier(verifier(pem, &provider)?),
        };
        let chain = certificates(certificate, "the TLS certificate")?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|e| failed("cannot read the TLS private key as PEM", e))?;
        let config = builder
            .with_single_cert(chain, key)
            .map_err(|e| failed("cannot use the TLS certificate with its private key", e))?;
        Ok(Self { config: Arc::new(config), mode })
    }

    pub(super) const fn required(&self) -> bool {
        matches!(self.mode, TlsMode::Required)
    }

    /// Do the handshake, and encrypt from then on.
    pub(super) fn accept(&self, under: Arc<dyn Transport>) -> io::Result<TlsTransport> {
        let connection = ServerConnection::new(self.config.clone()).map_err(io::Error::other)?;
        let transport = TlsTransport {
            under,
            connection: Mutex::new(connection),
            received: Mutex::new(Received { buffer: vec![0; RECORD].into_boxed_slice(), start: 0, end: 0 }),
        };
        while transport.connection.lock().is_handshaking() {
            transport.step()?;
        }
        Ok(transport)
    }
}

fn failed(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Invalid, what).with_source(source)
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|e| Error::invalid(format!("cannot read {what} as PEM")).with_source(e))?;
    if found.is_empty() {
        return Err(Error::invalid(format!("there is no certificate in the PEM text of {what}")));
    }
    Ok(found)
}

fn verifier(pem: &[u8], provider: &Arc<CryptoProvider>) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, "the authority of client certificates")? {
        roots.add(certificate).map_err(|e| failed("cannot use the authority of client certificates", e))?;
    }
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|e| failed("cannot use the authority of client certificates", e))
}

/// What is received at once: more than the longest TLS record (RFC 8446, section 5.2).
const RECORD: usize = 18 << 10;

/// An encrypted transport over another one.
///
/// One thread receives while others send, and the state of the encryption is one: so nobody waits for the network to
/// bring something while holding it.
pub(super) struct TlsTransport {
    under: Arc<dyn Transport>,
    connection: Mutex<ServerConnection>,
    received: Mutex<Received>,
}

/// Bytes as they came from the network.
struct Received {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// The transport below, as the TLS library wants to write to it.
struct Below<'a>(&'a dyn Transport);

impl Write for Below<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsTransport {
    /// Receive ciphertext once and let the TLS library work on it. `false` when the stream has ended.
    fn step(&self) -> io::Result<bool> {
        self.send_pending(&mut self.connection.lock())?;
        let mut received = self.received.lock();
        if received.start == received.end {
            received.end = self.under.recv(&mut received.buffer)?;
            received.start = 0;
        }
        let Received { buffer, start, end } = &mut *received;
        let mut ciphertext = buffer.get(*start..*end).unwrap_or_default();
        let mut connection = self.connection.lock();
        let ended = connection.read_tls(&mut ciphertext)? == 0;
        *start = *end - ciphertext.len();
        let processed = connection.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
        // An alert tells the client what was wrong, so it is sent before the error is returned.
        let sent = self.send_pending(&mut connection);
        processed?;
        sent?;
        if ended && connection.is_handshaking() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(!ended)
    }

    fn send_pending(&self, connection: &mut ServerConnection) -> io::Result<()> {
        while connection.wants_write() {
            match connection.write_tls(&mut Below(self.under.as_ref())) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Transport for TlsTransport {
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            // `Ok(0)` is the client's orderly end; an end without one comes from `step`.
            match self.connection.lock().reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if !self.step()? {
                // Clients close the socket without a word of TLS; requests are whole or not, so nothing is cut off.
                return Ok(0);
            }
        }
    }

    fn send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut connection = self.connection.lock();
        let n = connection.writer().write_vectored(bytes)?;
        self.send_pending(&mut connection)?;
        Ok(n)
    }

    fn set_deadline(&self, deadline: Option<Instant>) {
        self.under.set_deadline(deadline);
    }

    fn close(&self) {
        // Not when a sender holds the connection: then there is nobody to say goodbye to.
        if let Some(mut connection) = self.connection.try_lock() {
            connection.send_close_notify();
            let _ = self.send_pending(&mut connection);
        }
        self.under.close();
    }
}
