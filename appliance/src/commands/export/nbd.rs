//! `revenant export nbd`: disks, each as an export of its name.

use std::{
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{BlockDevice, Error, ReadAt, Result, images::Disk};
use exporters::nbd::{self, ChangedBlocks, ChangedRun, Config, Export, Exports, Limits, Listener, Tls, TlsMode};
use serde_json::json;

use super::{
    super::source::{DiskSource, Disks},
    GRACE, disks, signals,
};
use crate::{
    cli::{Cli, NbdOptions},
    output::{self, size},
};

pub fn run(cli: &Cli, paths: &[OsString], options: &NbdOptions) -> Result<u8> {
    let disks = Disks::new(cli);
    let sources = disks::all(&disks, paths, options.format.as_deref(), options.overlay.as_deref())?;
    if let (Some(_), false) = (&options.name, sources.len() == 1) {
        return Err(Error::invalid(
            "--name names one disk, and there are several; without it they are named themselves",
        ));
    }
    let exports = Arc::new(Exports::new());
    let mut names = Vec::new();
    for source in &sources {
        let name = options.name.clone().unwrap_or_else(|| source.name(&sources));
        let disk: Arc<dyn BlockDevice> = Arc::<Disk>::clone(&source.image.disk);
        let mut export = Export::new(
            name.clone(),
            match &options.overlay {
                Some(path) => {
                    let path = disks::overlay_path(path, &name);
                    nbd::Disk::Writable(Arc::new(disks::overlay(&path, source, disk, options.overlay_quota)?))
                }
                None => nbd::Disk::ReadOnly(disk),
            },
        );
        export.description = source.label.chars().take(1000).collect();
        if source.image.disk.depth() > 1 {
            export.changed = vec![("changed".to_owned(), Arc::new(Changed(Arc::clone(&source.image.disk))))];
        }
        exports.insert(export)?;
        names.push(name);
    }
    // Signals are caught before anybody can connect.
    let mut signals = signals()?;
    let config = Config {
        limits: Limits { connections: options.max_connections, ..Limits::default() },
        tls: tls(options)?,
        report: Some(Box::new(output::note)),
        ..Config::default()
    };
    let server = nbd::Server::start(config, exports, listeners(options)?)?;
    tell(cli, &server, &sources, &names, options.overlay.is_some())?;
    signals.forever().next();
    server.shutdown(GRACE)?;
    Ok(0)
}

/// What changed since the image that the topmost one was made on.
struct Changed(Arc<Disk>);

impl ChangedBlocks for Changed {
    fn run_at(&self, offset: u64) -> Result<ChangedRun> {
        let (len, layer) = self.0.layer_at(offset, self.0.size().saturating_sub(offset).max(1))?;
        Ok(ChangedRun { len, changed: layer == Some(0) })
    }
}

fn listeners(options: &NbdOptions) -> Result<Vec<Listener>> {
    let activated = Listener::activated()?;
    if !activated.is_empty() {
        return Ok(activated);
    }
    match options.listen.strip_prefix("unix:") {
        Some(path) => Ok(vec![Listener::unix(Path::new(path))?]),
        None if options.listen.contains('/') => Ok(vec![Listener::unix(Path::new(&options.listen))?]),
        None => Listener::tcp(&options.listen),
    }
}

fn tls(options: &NbdOptions) -> Result<Option<Tls>> {
    let read = |path: &PathBuf| fs::read(path).map_err(|e| Error::io(format!("cannot read {}", path.display()), e));
    let (certificate, key) = match (&options.tls_cert, &options.tls_key) {
        (Some(certificate), Some(key)) => (read(certificate)?, read(key)?),
        (None, None) if options.tls_client_ca.is_none() => return Ok(None),
        _ => return Err(Error::invalid("encryption needs both --tls-cert and --tls-key")),
    };
    let ca = options.tls_client_ca.as_ref().map(read).transpose()?;
    let mode = if options.tls_optional { TlsMode::Optional } else { TlsMode::Required };
    Tls::new(&certificate, &key, ca.as_deref(), mode, false).map(Some)
}

/// Say where which disk is; then it can be used.
fn tell(cli: &Cli, server: &nbd::Server, sources: &[DiskSource], names: &[String], writable: bool) -> Result<()> {
    let mut out = std::io::stdout();
    let mut lines = String::new();
    for address in server.addresses() {
        for (source, name) in sources.iter().zip(names) {
            let uri = nbd::uri(address, name);
            let disk = &source.image.disk;
            if cli.sources.json {
                let value = json!({
                    "uri": uri,
                    "name": name,
                    "source": source.label,
                    "size": disk.size(),
                    "block_size": disk.block_sizes().logical,
                    "read_only": !writable,
                });
                lines.push_str(&format!("{value}\n"));
            } else {
                let access = if writable { "writable over its overlay" } else { "read-only" };
                lines.push_str(&format!("{uri}  {}, {access}\n", size(disk.size())));
            }
        }
    }
    output::written(out.write_all(lines.as_bytes()).and_then(|()| out.flush()))
}
