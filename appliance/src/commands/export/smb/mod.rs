//! `revenant export smb`: a folder of the tree as an SMB share, by stock Samba over a mount.
//!
//! Samba runs with a configuration, users and state of its own in a folder that goes with this program: whatever else
//! Samba does on this machine is not touched. Everybody whom it lets in may read everything: owners and modes of the
//! machine that was backed up mean nothing to the users of a share.

mod configuration;
mod samba;

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use blockdev::{Error, ErrorKind, Result, containers::Kind};
use serde_json::json;
use vfs::{
    door::unicode,
    fuse::{self, MountOptions},
};

use self::{
    configuration::{Access, Configuration},
    samba::Samba,
};
use super::{super::open, datastore, host, signals};
use crate::{
    cli::{Cli, SmbOptions},
    output,
};

/// How long open files are still served after the mount was ended while busy.
const GRACE: Duration = Duration::from_secs(5);
/// How often Samba is looked after.
const TICK: Duration = Duration::from_millis(200);

const PASSWORD: &str = "REVENANT_SMB_PASSWORD";

pub fn run(cli: &Cli, path: Option<&OsStr>, options: &SmbOptions) -> Result<u8> {
    let access = match (&options.user, options.guest) {
        (Some(user), _) => Access::User(user.clone()),
        (None, true) => Access::Guests,
        (None, false) => {
            return Err(Error::invalid("say who may connect: --user NAME, or --guest for everybody"));
        }
    };
    let mut configuration = Configuration::new(&options.share, access, address(&options.listen)?, &options.allow)?;
    configuration.processes = options.max_connections;
    configuration.writable = options.datastore.overlay.is_some();
    if options.print_config {
        let Some(mount) = &options.mount else {
            return Err(Error::invalid("name the folder on which the tree will be mounted: --mount DIR"));
        };
        let text = configuration.text(mount, None)?;
        return output::written(std::io::stdout().write_all(text.as_bytes())).map(|()| 0);
    }
    serve(cli, path, options, configuration)
}

fn serve(cli: &Cli, path: Option<&OsStr>, options: &SmbOptions, mut configuration: Configuration) -> Result<u8> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(ErrorKind::Locked, "Samba has to be started by root; run this as root"));
    }
    let program = samba::find("smbd")?;
    configuration.maps_characters = samba::has_module(&program, "catia");
    configuration.address = free(configuration.address)?;
    let password = match &configuration.access {
        Access::User(_) => Some(password(options)?),
        Access::Guests => None,
    };
    let folder = private_folder()?;
    let mountpoint = match &options.mount {
        Some(mountpoint) => mountpoint.clone(),
        None => made(folder.path().join("tree"))?,
    };
    // Signals are caught before the mount exists, so that none leaves it behind.
    let mut signals = signals()?;
    let mut mounting = MountOptions::default();
    mounting.log = Arc::new(output::note);
    mounting.detach_grace = GRACE;
    let datastore = datastore::open(cli, path, &options.datastore, Kind::VhdxDynamic, Kind::VmdkFlat)?;
    let opened;
    let root = match &datastore {
        // What clients make has Unicode names already.
        Some(datastore) => datastore.root(),
        None => {
            opened = open(cli)?;
            mounting.totals = opened.totals();
            unicode(opened.resolve(path.unwrap_or_default())?)
        }
    };
    let mount = fuse::mount(root, &mountpoint, &mounting)?;
    let text = configuration.text(&mountpoint, Some(folder.path()))?;
    let mut samba = Samba::start(&program, folder.path(), &text, &configuration, password.as_deref())?;
    tell(cli, &configuration, path.unwrap_or_default())?;

    let unmounter = mount.unmounter();
    let (events, ended) = mpsc::channel();
    let interrupted = events.clone();
    thread::spawn(move || {
        signals.forever().next();
        let _nobody_waits_any_more = interrupted.send(Ok(()));
    });
    let watcher = thread::spawn(move || {
        let ended = mount.wait().and_then(|()| Err(Error::new(ErrorKind::Io, "the tree was unmounted by somebody")));
        let _nobody_waits_any_more = events.send(ended);
    });
    let outcome = loop {
        match ended.recv_timeout(TICK) {
            Ok(event) => break event,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if let Err(e) = samba.check() {
                    break Err(e);
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break Ok(()),
        }
    };
    // Samba has files of the mount open.
    samba.stop();
    unmounter.unmount()?;
    // It panics in nothing.
    let _ = watcher.join();
    let closed = datastore.as_ref().map_or(Ok(()), datastore::close);
    outcome.and(closed).map(|()| 0)
}

fn address(listen: &str) -> Result<SocketAddr> {
    let mut addresses = listen.to_socket_addrs().map_err(|e| Error::io(format!("cannot listen at {listen}"), e))?;
    addresses.next().ok_or_else(|| Error::invalid(format!("cannot listen at {listen}: there is no such address")))
}

/// Samba goes on without a word when its port is taken, so that is found out before. For port 0, a free one.
fn free(address: SocketAddr) -> Result<SocketAddr> {
    TcpListener::bind(address)
        .and_then(|listener| listener.local_addr())
        .map_err(|e| Error::io(format!("cannot listen at {address}; choose another address by --listen"), e))
}

fn password(options: &SmbOptions) -> Result<String> {
    let text = match &options.password_file {
        Some(file) => fs::read_to_string(file).map_err(|e| Error::io(format!("cannot read {}", file.display()), e))?,
        None => std::env::var(PASSWORD).map_err(|_| {
            Error::new(ErrorKind::Locked, format!("the user needs a password: --password-file FILE or {PASSWORD}"))
        })?,
    };
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(Error::invalid("an empty password is none; --guest lets everybody in")),
    }
}

/// A folder that only its owner can enter; it goes when the program ends.
fn private_folder() -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("revenant-smb.")
        .tempdir()
        .map_err(|e| Error::io("cannot make a folder for Samba's files", e))
}

fn made(folder: impl AsRef<Path>) -> Result<std::path::PathBuf> {
    let folder = folder.as_ref();
    fs::create_dir(folder).map_err(|e| Error::io(format!("cannot make {}", folder.display()), e))?;
    Ok(folder.to_owned())
}

/// Say where the share is; then it can be used.
fn tell(cli: &Cli, configuration: &Configuration, path: &OsStr) -> Result<()> {
    let Configuration { share, address, access, allow, .. } = configuration;
    if !address.ip().is_loopback() {
        let everything = if path.is_empty() { "everything in the backups".into() } else { path.to_string_lossy() };
        let who = match access {
            Access::User(user) => format!("whoever has the password of {user}"),
            Access::Guests => "everybody, without a password,".into(),
        };
        let does = if configuration.writable { "read and write" } else { "read" };
        let place = if allow.is_empty() { "that reaches this address" } else { "that --allow names" };
        output::note(&format!(
            "warning: {address} is reached from the network: {who} can {does} {everything} from any machine {place}"
        ));
    }
    let line = if cli.sources.json {
        let (user, guest) = match access {
            Access::User(user) => (Some(user), false),
            Access::Guests => (None, true),
        };
        let (ip, port) = (address.ip().to_string(), address.port());
        let source = path.to_string_lossy();
        json!({"address": ip, "port": port, "share": share, "source": source, "user": user, "guest": guest,
               "read_only": !configuration.writable})
        .to_string()
    } else {
        let who = match access {
            Access::User(user) => format!("-U {user}"),
            Access::Guests => "-N".into(),
        };
        format!("smbclient -p {} {who} '//{}/{share}'", address.port(), host(address.ip()))
    };
    let mut out = std::io::stdout();
    output::written(writeln!(out, "{line}").and_then(|()| out.flush()))
}
