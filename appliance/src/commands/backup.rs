//! `revenant backup`: what Bacula's RunScripts call. What it prints is in the job's log: short lines, the machine first.

use std::io::Write;

use blockdev::Result;
use serde_json::Value;

use crate::{
    backup::runs::{self, Begin, End, List},
    cli::{Backup, BackupAction, Cli},
    daemon::{self, client},
    output::{self, size},
};

pub fn run(cli: &Cli, backup: &Backup) -> Result<u8> {
    let folder = backup.state.clone().unwrap_or_else(daemon::default_folder);
    // A line at a time: Bacula reads along.
    let line = |text: &str| {
        if !cli.sources.json {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    };
    let request = match &backup.action {
        BackupAction::Begin(begin) => runs::Request::Begin(Begin {
            machine: begin.machine.clone(),
            level: begin.level,
            job: begin.job.clone(),
            parent: Some(begin.parent.clone()).filter(|parent| !parent.is_empty()),
            quiesce: !begin.no_quiesce,
            exclude: begin.exclude.clone(),
        }),
        BackupAction::End(end) => {
            runs::Request::End(End { machine: end.machine.clone(), job: end.job.clone(), status: end.status.clone() })
        }
        BackupAction::Status => runs::Request::Status,
        BackupAction::List(selection) => runs::Request::List(List {
            on: selection.on.clone(),
            tags: selection.tag.clone(),
            like: selection.like.clone(),
        }),
    };
    let told = client::ask_running(&folder, &client::Request::Backup(request), &line)?;
    let mut out = output::stdout();
    let written = match &backup.action {
        _ if cli.sources.json => writeln!(out, "{told:#}"),
        BackupAction::Status => table(&mut out, &told),
        BackupAction::List(_) => {
            let folders = told.as_array().into_iter().flatten().filter_map(|machine| machine["folder"].as_str());
            folders.into_iter().try_for_each(|folder| writeln!(out, "{folder}"))
        }
        BackupAction::Begin(_) | BackupAction::End(_) => Ok(()),
    };
    output::written(written.and_then(|()| out.flush()))?;
    Ok(0)
}

fn table(out: &mut dyn Write, told: &Value) -> std::io::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut rows = Vec::new();
    for machine in told.as_array().into_iter().flatten() {
        let name = text(&machine["machine"]);
        for point in machine["points"].as_array().into_iter().flatten() {
            let bytes = size(point["bytes"].as_u64().unwrap_or_default());
            rows.push(vec![name.clone(), text(&point["level"]), bytes, "kept".to_owned(), text(&point["job"])]);
        }
        let running = &machine["running"];
        if !running.is_null() {
            let number = |key: &str| running[key].as_u64().unwrap_or_default();
            let state = format!("{} of {}", size(number("delivered")), size(number("bytes")));
            let state = if running["bytes"].is_null() { text(&running["phase"]) } else { state };
            rows.push(vec![name.clone(), text(&running["level"]), String::new(), state, text(&running["job"])]);
        }
        for (disk, why) in machine["distrusted"].as_object().into_iter().flatten() {
            let state = format!("disk {disk} is taken whole next time: {}", text(why));
            rows.push(vec![name.clone(), String::new(), String::new(), state, String::new()]);
        }
    }
    output::table(out, &["MACHINE", "LEVEL", "SIZE", "STATE", "JOB"], &[2], &rows)
}
