//! `revenant export smb`: a folder of the tree as an SMB share, by stock Samba over a mount.

use std::{ffi::OsStr, io::Write, sync::Arc, thread, time::Duration};

use blockdev::{Error, Result, containers::Kind};
use serde_json::json;
use vfs::{door::unicode, fuse::MountOptions};

use super::{super::open, datastore, host, signals};
use crate::{
    cli::{Cli, SmbOptions},
    output,
    smb::{self, Access, Configuration, Login, Share},
};

/// How often Samba is looked after.
const TICK: Duration = Duration::from_millis(100);

pub fn run(cli: &Cli, path: Option<&OsStr>, options: &SmbOptions) -> Result<u8> {
    if options.user.is_none() && !options.guest {
        return Err(Error::invalid("say who may connect: --user NAME, or --guest for everybody"));
    }
    let login = match &options.user {
        // The configuration has no password.
        Some(user) if options.print_config => Some(Login { user: user.clone(), password: String::new() }),
        user => smb::login(user.as_deref(), options.password_file.as_deref())?,
    };
    let address = smb::address(&options.listen)?;
    let mut configuration = Configuration::new(&options.share, login.into(), address, &options.allow)?;
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
    let folder = private_folder()?;
    // Signals are caught before the mount exists, so that none leaves it behind.
    let mut signals = signals()?;
    let mut mounting = MountOptions::default();
    mounting.log = Arc::new(output::note);
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
    let at = options.mount.as_deref();
    let mut share = Share::open(root, mounting, &mut configuration, folder.path(), at, &|_| ())?;
    tell(cli, &configuration, path.unwrap_or_default())?;
    let outcome = loop {
        if signals.pending().next().is_some() {
            break Ok(());
        }
        if let Err(e) = share.check() {
            break Err(e);
        }
        thread::sleep(TICK);
    };
    let ended = share.end();
    let closed = datastore.as_ref().map_or(Ok(()), datastore::close);
    outcome.and(ended).and(closed).map(|()| 0)
}

/// A folder that only its owner can enter; it goes when the program ends.
fn private_folder() -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("revenant-smb.")
        .tempdir()
        .map_err(|e| Error::io("cannot make a folder for Samba's files", e))
}

/// Say where the share is; then it can be used.
fn tell(cli: &Cli, configuration: &Configuration, path: &OsStr) -> Result<()> {
    let Configuration { share, address, access, .. } = configuration;
    let source = path.to_string_lossy();
    if let Some(warning) =
        configuration.warning(if path.is_empty() { "everything in the backups" } else { source.as_ref() })
    {
        output::note(&format!("warning: {warning}"));
    }
    let user = match access {
        Access::User(Login { user, .. }) => Some(user),
        Access::Guests => None,
    };
    let line = if cli.sources.json {
        let (ip, port) = (address.ip().to_string(), address.port());
        json!({"address": ip, "port": port, "share": share, "source": source, "user": user, "guest": user.is_none(),
               "read_only": !configuration.writable})
        .to_string()
    } else {
        let who = user.map_or_else(|| "-N".into(), |user| format!("-U {user}"));
        format!("smbclient -p {} {who} '//{}/{share}'", address.port(), host(address.ip()))
    };
    let mut out = std::io::stdout();
    output::written(writeln!(out, "{line}").and_then(|()| out.flush()))
}
