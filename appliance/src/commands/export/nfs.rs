//! `revenant export nfs`: a folder of the tree for machines that mount it.

use std::{
    ffi::OsStr,
    io::Write,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use blockdev::{Error, Result, containers::Kind};
use exporters::nfs::{Address, Clients, Config, Export, ExportOptions, Limits, Listener, Server, Sockets, Squash};
use serde_json::json;

use super::{super::open, GRACE, datastore, host, signals};
use crate::{
    cli::{Cli, NfsOptions},
    output,
};

pub fn run(cli: &Cli, path: Option<&OsStr>, options: &NfsOptions) -> Result<u8> {
    let clients = Clients::new(options.allow.iter().map(String::as_str), options.privileged_ports)?;
    let mut signals = signals()?;
    let sockets = sockets(options)?;
    if options.name.is_empty() || options.name.contains('/') {
        return Err(Error::invalid(format!("{:?} cannot be the name of a folder", options.name)));
    }
    let mut settings = ExportOptions {
        squash: squash(options)?,
        ignore_permissions: options.ignore_permissions,
        log: Arc::new(output::note),
        ..ExportOptions::default()
    };
    let datastore = datastore::open(cli, path, &options.datastore, Kind::VmdkVmfs, Kind::VmdkVmfs)?;
    let opened;
    let root = match &datastore {
        Some(datastore) => {
            settings.writable = true;
            settings.name = Some(options.name.clone());
            datastore.root()
        }
        None => {
            opened = open(cli)?;
            settings.totals = opened.totals();
            opened.resolve(path.unwrap_or_default())?
        }
    };
    let export = Export::new(root, settings)?;
    let limits = Limits { connections: options.max_connections, ..Limits::default() };
    let files = sockets.nfs.len();
    let server = Server::start(Config { limits, clients }, export, sockets)?;
    let addresses = server.addresses().get(..files).unwrap_or_default();
    tell(cli, addresses, path.unwrap_or_default(), options)?;
    signals.forever().next();
    server.shutdown(GRACE);
    datastore.as_ref().map_or(Ok(()), datastore::close)?;
    Ok(0)
}

fn squash(options: &NfsOptions) -> Result<Squash> {
    let (user, group) = options.anonymous.split_once(':').unwrap_or((&options.anonymous, &options.anonymous));
    let (Ok(user), Ok(group)) = (user.parse(), group.parse()) else {
        return Err(Error::invalid(format!("--anonymous {:?}: give two numbers, UID:GID", options.anonymous)));
    };
    Ok(match options.squash.as_str() {
        "root" => Squash::Root(user, group),
        "all" => Squash::All(user, group),
        _ => Squash::None,
    })
}

fn sockets(options: &NfsOptions) -> Result<Sockets> {
    let activated = Listener::activated()?;
    let nfs = if activated.is_empty() { Listener::tcp(&options.listen)? } else { activated };
    let addresses: Vec<SocketAddr> = nfs.iter().filter_map(tcp_address).collect();
    if let Some(address) = addresses.iter().find(|a| !a.ip().is_loopback())
        && options.allow.is_empty()
    {
        return Err(Error::invalid(format!(
            "other machines reach {address}, and NFS believes them who they are: name those that may connect by --allow \
             (0.0.0.0/0 and ::/0 are all)"
        )));
    }
    let mut sockets = Sockets { nfs, ..Sockets::default() };
    for &address in &addresses {
        let at = |port| SocketAddr::new(address.ip(), port);
        if let Some(port) = options.mount_port {
            sockets.mount.extend(Listener::tcp(&at(port).to_string())?);
        }
        let Some(port) = options.portmap else { continue };
        let in_use = |e: Error| {
            e.context(
                "the port mapper (when rpcbind runs here, end it or leave --portmap out and name ports to clients)",
            )
        };
        sockets.portmap.extend(Listener::tcp(&at(port).to_string()).map_err(in_use)?);
        if sockets.portmap_datagrams.is_none() {
            let socket = UdpSocket::bind(at(port)).map_err(|e| Error::io(format!("cannot listen at {}", at(port)), e));
            sockets.portmap_datagrams = Some(socket.map_err(in_use)?);
        }
    }
    Ok(sockets)
}

fn tcp_address(listener: &Listener) -> Option<SocketAddr> {
    match listener.address() {
        Address::Tcp(address) => Some(*address),
        Address::Unix(_) => None,
    }
}

/// Say where it is and how it is mounted; then it can be.
fn tell(cli: &Cli, addresses: &[Address], path: &OsStr, options: &NfsOptions) -> Result<()> {
    let mut out = std::io::stdout();
    let mut lines = String::new();
    let source = path.to_string_lossy();
    let mounted = match &options.datastore.overlay {
        Some(_) => format!("/{}", options.name),
        None => "/".to_owned(),
    };
    for address in addresses {
        let Address::Tcp(tcp) = address else { continue };
        let port = tcp.port();
        let mount_port = options.mount_port.unwrap_or(port);
        if cli.sources.json {
            let value = json!({
                "address": tcp.ip().to_string(),
                "port": port,
                "mount_port": mount_port,
                "path": mounted,
                "source": source,
                "read_only": options.datastore.overlay.is_none(),
                "allow": options.allow,
            });
            lines.push_str(&format!("{value}\n"));
        } else {
            let host = host(tcp.ip());
            let access = if options.datastore.overlay.is_some() { "rw" } else { "ro" };
            lines.push_str(&format!(
                "mount -t nfs -o {access},vers=3,proto=tcp,nolock,port={port},mountport={mount_port} {host}:{mounted} /mnt\n"
            ));
        }
    }
    output::written(out.write_all(lines.as_bytes()).and_then(|()| out.flush()))
}
