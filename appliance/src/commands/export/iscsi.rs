//! `revenant export iscsi`: disks, as the logical units of one target.

use std::{
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{BlockDevice, Error, ReadAt, Result};
use exporters::{
    Disk,
    iscsi::{Address, Chap, Clients, Config, Limits, Listener, Secret, Server, Target, Targets},
    scsi::{LogicalUnit, Lun, Options},
};
use serde_json::json;

use super::{
    super::source::{DiskSource, Disks},
    GRACE, disks, signals,
};
use crate::{
    cli::{Cli, IscsiOptions},
    output::{self, size},
};

/// What names of targets begin with where none is given.
const AUTHORITY: &str = "iqn.2026-01.io.github.revenant-backup";

pub fn run(cli: &Cli, paths: &[OsString], options: &IscsiOptions) -> Result<u8> {
    let clients = Clients::new(options.allow.iter().map(String::as_str), false)?;
    let chap = chap(options)?;
    let listeners = listeners(options, chap.is_some())?;
    let found = Disks::new(cli);
    let sources = disks::all(&found, paths, options.format.as_deref(), options.overlay.as_deref())?;
    let name = options.iqn.clone().unwrap_or_else(|| format!("{AUTHORITY}:{}", suffix(&sources)));
    let mut target = Target::new(name)?.with_initiators(options.initiator.clone());
    if let Some(chap) = chap {
        target = target.with_chap(chap);
    }
    let targets = Arc::new(Targets::new());
    let target = targets.insert(target)?;
    for (lun, source) in (0..).zip(&sources) {
        target.insert(lun, Arc::new(unit(source, &sources, options)?))?;
    }
    // Signals are caught before anybody can connect.
    let mut signals = signals()?;
    let config = Config {
        limits: Limits { connections: options.max_connections, ..Limits::default() },
        clients,
        report: Some(Box::new(output::note)),
        portal: options.portal,
    };
    let server = Server::start(config, targets, listeners)?;
    tell(cli, &server, &target, &sources, options)?;
    signals.forever().next();
    server.shutdown(GRACE)?;
    Ok(0)
}

/// A disk as a unit. It is the same disk for initiators as long as it is the same disk over the same overlay.
fn unit(source: &DiskSource, all: &[DiskSource], options: &IscsiOptions) -> Result<LogicalUnit> {
    let disk: Arc<dyn BlockDevice> = Arc::<blockdev::images::Disk>::clone(&source.image.disk);
    let mut settings =
        Options { identity: source.identity.clone(), reservations: None, write_through: options.write_through };
    let Some(path) = &options.overlay else { return LogicalUnit::new(Disk::ReadOnly(disk), settings) };
    let path = disks::overlay_path(path, &source.name(all));
    let overlay = disks::overlay(&path, source, disk, options.overlay_quota)?;
    let place = path.canonicalize().map_err(|e| Error::io(format!("cannot find {}", path.display()), e))?;
    settings.identity.push(0);
    settings.identity.extend(place.as_os_str().as_encoded_bytes());
    let mut reservations = path.into_os_string();
    reservations.push(".reservations");
    settings.reservations = Some(reservations.into());
    LogicalUnit::new(Disk::Writable(Arc::new(overlay)), settings)
}

/// What a target is called after: its disk, or the folder that its disks are in.
fn suffix(sources: &[DiskSource]) -> String {
    let text = match sources {
        [only] => only.label.rsplit_once('.').map_or(&*only.label, |(stem, _)| stem),
        [first, ..] => first.label.rsplit_once('/').map_or(&*first.label, |(folder, _)| folder),
        [] => "",
    };
    let text = text.trim_end_matches("/disks").replace("/disks/", "/").to_lowercase();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
    let words = text.split(|c| !allowed(c)).filter(|word| !word.is_empty() && *word != "machines");
    let mut name = words.collect::<Vec<_>>().join("-");
    name.truncate(150);
    if name.is_empty() { "disks".into() } else { name }
}

fn chap(options: &IscsiOptions) -> Result<Option<Chap>> {
    let secret = |user: &Option<String>, file: &Option<PathBuf>, what: &str| match (user, file) {
        (Some(user), Some(file)) => {
            let bytes = fs::read(file).map_err(|e| Error::io(format!("cannot read {}", file.display()), e))?;
            let end = bytes.trim_ascii_end().len();
            Secret::new(user, bytes.get(..end).unwrap_or_default()).map(Some)
        }
        (None, None) => Ok(None),
        _ => Err(Error::invalid(format!("--{what}-user and --{what}-secret-file belong together"))),
    };
    let initiator = secret(&options.chap_user, &options.chap_secret_file, "chap")?;
    let target = secret(&options.mutual_user, &options.mutual_secret_file, "mutual")?;
    match (initiator, target) {
        (Some(initiator), target) => Chap::new(initiator, target).map(Some),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Error::invalid("the target proves itself only to initiators that do: give --chap-user")),
    }
}

fn listeners(options: &IscsiOptions, authenticates: bool) -> Result<Vec<Listener>> {
    let activated = Listener::activated()?;
    let listeners = if !activated.is_empty() {
        activated
    } else if let Some(path) = options.listen.strip_prefix("unix:") {
        vec![Listener::unix(Path::new(path))?]
    } else {
        Listener::tcp(&options.listen)?
    };
    let open = |listener: &&Listener| matches!(listener.address(), Address::Tcp(a) if !a.ip().is_loopback());
    match listeners.iter().find(open) {
        Some(listener) if options.allow.is_empty() && !authenticates => Err(Error::invalid(format!(
            "other machines reach {}: name those that may connect by --allow (0.0.0.0/0 and ::/0 are all), or have them \
             authenticate by --chap-user",
            listener.address()
        ))),
        _ => Ok(listeners),
    }
}

/// Say where which disk is; then it can be used.
fn tell(cli: &Cli, server: &Server, target: &Target, sources: &[DiskSource], options: &IscsiOptions) -> Result<()> {
    let mut out = std::io::stdout();
    let mut lines = String::new();
    for address in server.addresses() {
        for ((lun, unit), source) in target.units().iter().zip(sources) {
            lines.push_str(&line(cli, address, target, *lun, unit, source, options));
        }
    }
    output::written(out.write_all(lines.as_bytes()).and_then(|()| out.flush()))
}

fn line(
    cli: &Cli,
    address: &Address,
    target: &Target,
    lun: Lun,
    unit: &LogicalUnit,
    source: &DiskSource,
    options: &IscsiOptions,
) -> String {
    let disk = &source.image.disk;
    let uri = format!("iscsi://{address}/{}/{lun}", target.name());
    let writable = options.overlay.is_some();
    if cli.sources.json {
        let port = match address {
            Address::Tcp(address) => Some(address.port()),
            Address::Unix(_) => None,
        };
        let value = json!({
            "uri": uri,
            "target": target.name(),
            "lun": lun,
            "address": address.to_string(),
            "port": port,
            "source": source.label,
            "size": disk.size(),
            "block_size": disk.block_sizes().logical,
            "read_only": !writable,
            "naa": unit.naa(),
            "serial": unit.serial(),
        });
        return format!("{value}\n");
    }
    let access = if writable { "writable over its overlay" } else { "read-only" };
    format!("{uri}  {}, {access}, naa.{}\n", size(disk.size()), unit.naa())
}
