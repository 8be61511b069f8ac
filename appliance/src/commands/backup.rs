//! `revenant backup`: what Bacula's RunScripts call. What it prints is in the job's log: short lines, the machine first.

use std::{io::Write, path::Path};

use blockdev::Result;
use serde_json::Value;

use crate::{
    backup::{
        record::Level,
        runs::{self, Begin, End, List},
    },
    cli::{Backup, BackupAction, Cli, ListOptions, Selection},
    daemon::{self, client},
    output::{self, size},
};

pub fn run(cli: &Cli, backup: &Backup) -> Result<u8> {
    let folder = daemon::folder(&cli.sources, backup.state.as_deref())?;
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
            include: begin.include.clone(),
            exclude: begin.exclude.clone(),
            is_silent: false,
        }),
        BackupAction::End(end) => {
            runs::Request::End(End { machine: end.machine.clone(), job: end.job.clone(), status: end.status.clone() })
        }
        BackupAction::Status => runs::Request::Status,
        BackupAction::List(options) => runs::Request::List(List::from(&options.selection)),
    };
    if let BackupAction::List(ListOptions { begin: true, level: Some(level), job: Some(job), .. }) = &backup.action {
        return begin_all(&folder, &backup.action, *level, job);
    }
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

impl From<&Selection> for List {
    fn from(selection: &Selection) -> Self {
        Self { on: selection.on.clone(), tags: selection.tag.clone(), like: selection.like.clone() }
    }
}

/// Begins all machines of a list and prints their folders, for a file set that asks a program. If one cannot be begun none
/// is, and the job fails.
///
/// Bacula takes each line on standard output or standard error for a file. So what is to be said is said when the job ends;
/// why one could not be begun is in the daemon's log.
fn begin_all(folder: &Path, action: &BackupAction, level: Level, job: &str) -> Result<u8> {
    let BackupAction::List(options) = action else { return Ok(2) };
    let ask = |request| client::ask_running(folder, &client::Request::Backup(request), &|_| ());
    let listed = ask(runs::Request::List(List::from(&options.selection)))?;
    let mut folders = Vec::new();
    for machine in listed.as_array().into_iter().flatten() {
        let begin = Begin {
            machine: machine["machine"].as_str().unwrap_or_default().to_owned(),
            level,
            job: job.to_owned(),
            parent: Some(options.parent.clone()).filter(|parent| !parent.is_empty()),
            quiesce: true,
            include: Vec::new(),
            exclude: Vec::new(),
            is_silent: true,
        };
        if let Err(e) = ask(runs::Request::Begin(begin)) {
            // Those that were begun are taken back: Bacula runs no script after a job that fails here.
            let end = End { machine: None, job: job.to_owned(), status: "Fatal Error".to_owned() };
            let _ = ask(runs::Request::End(end));
            return Err(e);
        }
        folders.extend(machine["folder"].as_str().map(str::to_owned));
    }
    let mut out = output::stdout();
    let written = folders.iter().try_for_each(|folder| writeln!(out, "{folder}"));
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
