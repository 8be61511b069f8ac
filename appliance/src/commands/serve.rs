//! `revenant serve`: the daemon.

use std::{io::Write, path::Path, time::Duration};

use blockdev::Result;
use serde_json::json;

use super::cancel_flag;
use crate::{cli::Cli, daemon, output};

pub fn run(cli: &Cli, state: Option<&Path>, until_idle: Option<u64>, mount: Option<&Path>) -> Result<u8> {
    let end = cancel_flag()?;
    let folder = daemon::folder(&cli.sources, state)?;
    let ready = |folder: &Path| {
        let text = if cli.sources.json {
            json!({ "state": folder }).to_string()
        } else {
            format!("sessions in {}", folder.display())
        };
        let mut out = output::stdout();
        output::written(writeln!(out, "{text}").and_then(|()| out.flush()))
    };
    let configured = crate::config::mount(&cli.sources)?;
    let mount = mount.or(configured.as_deref());
    let idle = until_idle.map(Duration::from_secs);
    daemon::run(&daemon::Options { folder: &folder, idle, mount, sources: &cli.sources }, &end, &ready)?;
    Ok(0)
}
