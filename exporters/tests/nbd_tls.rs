//! Encryption, with certificates that are made here and clients that others wrote.

mod common;

use std::{path::Path, process::Output, sync::Arc};

use common::{Ram, attempt, installed, read_only, run};
use exporters::nbd::{Address, Config, Exports, Listener, Server, Tls, TlsMode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// An authority, and certificates of a server and a client as files in a folder that libnbd and QEMU understand.
struct Certificates {
    folder: tempfile::TempDir,
    authority: String,
    server: String,
    server_key: String,
}

fn certificates() -> Certificates {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (server, server_key) = issue("localhost");
    let (client, client_key) = issue("client");
    let folder = tempfile::tempdir().unwrap();
    let files = [("ca-cert.pem", &authority), ("client-cert.pem", &client), ("client-key.pem", &client_key)];
    // QEMU reads the files of the endpoint that it is told; their names are the same as libnbd's.
    files.iter().for_each(|(name, pem)| std::fs::write(folder.path().join(name), pem).unwrap());
    Certificates { folder, authority, server, server_key }
}

fn serve(certificates: &Certificates, clients: bool, mode: TlsMode) -> (Server, u16) {
    let authority = clients.then_some(certificates.authority.as_bytes());
    let (server, key) = (certificates.server.as_bytes(), certificates.server_key.as_bytes());
    let tls = Tls::new(server, key, authority, mode, false).unwrap();
    let exports = Exports::new();
    exports.insert(read_only("disk", Ram::new(common::checkered()))).unwrap();
    let listeners = Listener::tcp("127.0.0.1:0").unwrap();
    let config = Config { tls: Some(tls), ..Config::default() };
    let server = Server::start(config, Arc::new(exports), listeners).unwrap();
    let Address::Tcp(address) = &server.addresses()[0] else { unreachable!() };
    let port = address.port();
    (server, port)
}

fn uri(port: u16, folder: &Path) -> String {
    format!("nbds://localhost:{port}/disk?tls-certificates={}", folder.display())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A disk is copied over TLS; where TLS is required, a client without it gets nothing, not even names.
#[test]
fn required() {
    let certificates = certificates();
    let (_server, port) = serve(&certificates, false, TlsMode::Required);
    if !installed("nbdcopy") {
        return;
    }
    let copy = certificates.folder.path().join("copy");
    run("nbdcopy", &[&uri(port, certificates.folder.path()), copy.to_str().unwrap()]);
    assert!(std::fs::read(&copy).unwrap() == common::checkered());
    let refused = attempt("nbdinfo", &["--list", &format!("nbd://localhost:{port}")]);
    assert!(!refused.status.success() && !text(&refused).contains("disk"), "{}", text(&refused));
    if installed("qemu-img") {
        let dir = certificates.folder.path().display();
        let credentials = format!("tls-creds-x509,id=tls,endpoint=client,dir={dir}");
        let plain = format!("driver=nbd,server.type=inet,server.host=localhost,server.port={port},export=disk");
        assert!(!attempt("qemu-img", &["info", "--image-opts", &plain]).status.success());
        let encrypted = format!("{plain},tls-creds=tls");
        run("qemu-img", &["info", "--object", &credentials, "--image-opts", &encrypted]);
    }
}

/// Where TLS is optional, both kinds of clients are served.
#[test]
fn optional() {
    let certificates = certificates();
    let (_server, port) = serve(&certificates, false, TlsMode::Optional);
    if installed("nbdinfo") {
        let with = run("nbdinfo", &[&uri(port, certificates.folder.path())]);
        assert!(with.contains("with TLS"), "{with}");
        let without = run("nbdinfo", &[&format!("nbd://localhost:{port}/disk")]);
        assert!(without.contains("without TLS"), "{without}");
    }
}

/// A client needs a certificate of the right authority, where they are asked for.
#[test]
fn clients_show_certificates() {
    let certificates = certificates();
    let (_server, port) = serve(&certificates, true, TlsMode::Required);
    if !installed("nbdinfo") {
        return;
    }
    run("nbdinfo", &[&uri(port, certificates.folder.path())]);
    // A client that another authority knows, which trusts this server all the same.
    let stranger = self::certificates();
    std::fs::write(stranger.folder.path().join("ca-cert.pem"), &certificates.authority).unwrap();
    let refused = attempt("nbdinfo", &[&uri(port, stranger.folder.path())]);
    assert!(!refused.status.success(), "{}", text(&refused));
    let anonymous = tempfile::tempdir().unwrap();
    std::fs::write(anonymous.path().join("ca-cert.pem"), &certificates.authority).unwrap();
    let refused = attempt("nbdinfo", &[&uri(port, anonymous.path())]);
    assert!(!refused.status.success(), "{}", text(&refused));
}

/// Texts that are no certificates are refused with a word about which.
#[test]
fn bad_certificates() {
    let good = certificates();
    let (server, key) = (good.server.as_bytes(), good.server_key.as_bytes());
    let refused = |server: &[u8], key: &[u8], authority: Option<&[u8]>| {
        Tls::new(server, key, authority, TlsMode::Required, false).unwrap_err().to_string()
    };
    assert!(refused(b"", key, None).contains("no certificate"));
    assert!(refused(server, b"nonsense", None).contains("private key"));
    assert!(refused(server, certificates().server_key.as_bytes(), None).contains("with its private key"));
    assert!(refused(server, key, Some(b"")).contains("authority of client"));
}
