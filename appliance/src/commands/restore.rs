//! `revenant restore`: what Bacula's RunScripts call. What it prints is in the job's log.

use std::io::Write;

use blockdev::Result;

use crate::{
    cli::{Cli, Restore, RestoreAction},
    daemon::{self, client},
    output::{self, size},
    restore::Request,
};

pub fn run(cli: &Cli, restore: &Restore) -> Result<u8> {
    let folder = daemon::folder(&cli.sources, restore.state.as_deref())?;
    let line = |text: &str| {
        if !cli.sources.json {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    };
    let request = match &restore.action {
        RestoreAction::End { folder, status } => Request::End { folder: folder.clone(), status: status.clone() },
        RestoreAction::Status => Request::Status,
    };
    let told = client::ask_running(&folder, &client::Request::Restore(request), &line)?;
    let mut out = output::stdout();
    let written = match &restore.action {
        _ if cli.sources.json => writeln!(out, "{told:#}"),
        RestoreAction::End { .. } => Ok(()),
        RestoreAction::Status => {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let row = |restore: &serde_json::Value| {
                let missing = restore["missing"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
                let lines = restore["lines"].as_array().and_then(|lines| lines.last()).map(text).unwrap_or_default();
                let about = if missing.is_empty() { lines } else { format!("waits for {}", missing.join(", ")) };
                let written = size(restore["written"].as_u64().unwrap_or_default());
                vec![text(&restore["folder"]), text(&restore["state"]), written, about]
            };
            let rows: Vec<_> = told.as_array().into_iter().flatten().map(row).collect();
            output::table(&mut out, &["FOLDER", "STATE", "WRITTEN", ""], &[2], &rows)
        }
    };
    output::written(written.and_then(|()| out.flush()))?;
    Ok(0)
}
