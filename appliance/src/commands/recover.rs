//! `revenant recover`: begins, lists and ends recoveries, by the daemon.

use std::{io::Write, path::PathBuf, sync::Arc};

use blockdev::{Error, Result};
use hv_drivers::driver::FileFormat;
use serde_json::Value;

use super::open_sources;
use crate::{
    cli::{Cli, Recover, RecoverAction, RecoverStart, Sources},
    config,
    daemon::{
        self,
        client::{self, Request},
    },
    output::{self, size},
    recovery::{doors::datastore, quote, record::Door, sessions::Wish},
    smb,
};

pub fn run(cli: &Cli, recover: &Recover) -> Result<u8> {
    let folder = daemon::folder(&cli.sources, recover.state.as_deref())?;
    let step = |step: &str| {
        if !cli.sources.quiet && !cli.sources.json {
            output::note(step);
        }
    };
    let ask = |request: Request| client::ask(&folder, &request, &step);
    match &recover.action {
        None if recover.start.quote => return tell_quote(cli, &recover.start),
        None => {
            let session = ask(Request::Recover(Box::new(wish(cli, &recover.start)?)))?;
            if let Some(warning) = session["warning"].as_str() {
                output::note(&format!("warning: {warning}"));
            }
            tell(cli, &session)
        }
        Some(RecoverAction::List { all }) => tell(cli, &ask(Request::List { all: *all })?),
        Some(RecoverAction::Show { id }) => show(cli, &ask(Request::Show { id: id.clone() })?),
        Some(RecoverAction::Stop { id, shutdown }) => {
            ask(Request::Stop { id: id.clone(), shutdown: *shutdown }).map(drop)
        }
        Some(RecoverAction::Forget { id }) => {
            let forgotten = ask(Request::Forget { id: id.clone() })?;
            if let Some(left) = forgotten["left"].as_str() {
                output::note(&format!("its machine runs on; its console and monitor stay in {left}"));
            }
            Ok(())
        }
        Some(RecoverAction::Start { id }) => tell(cli, &ask(Request::Start { id: id.clone() })?),
        Some(RecoverAction::Quota { id, bytes }) => tell(cli, &ask(Request::Quota { id: id.clone(), bytes: *bytes })?),
        Some(RecoverAction::Migrate { id, to, format }) => {
            let folder = std::path::absolute(to).map_err(|e| Error::io(format!("cannot find {}", to.display()), e))?;
            let format = if format == "raw" { FileFormat::Raw } else { FileFormat::Qcow2 };
            moved(cli, &ask(Request::Migrate { id: id.clone(), folder, format })?)
        }
        Some(RecoverAction::Renew { id, lease }) => {
            let seconds = lease.map(|minutes| minutes.saturating_mul(60));
            tell(cli, &ask(Request::Renew { id: id.clone(), seconds })?)
        }
    }?;
    Ok(0)
}

/// Says where the disks are now.
fn moved(cli: &Cli, moved: &Value) -> Result<()> {
    let mut out = output::stdout();
    if cli.sources.json {
        return output::written(writeln!(out, "{moved:#}").and_then(|()| out.flush()));
    }
    for disk in moved["disks"].as_array().into_iter().flatten() {
        output::written(writeln!(out, "{}", disk["path"].as_str().unwrap_or_default()))?;
    }
    output::written(out.flush())?;
    let machine = &moved["machine"];
    let told = |key: &str| machine[key].as_str().unwrap_or("none");
    let what = machine["domain"]
        .as_str()
        .map_or_else(|| format!("process {}", machine["pid"]), |domain| format!("libvirt's domain {domain}"));
    output::note(&format!(
        "the machine runs on, {what}; its console is {}, its screen {} (VNC)",
        told("console"),
        told("vnc")
    ));
    Ok(())
}

fn target(start: &RecoverStart) -> Result<&str> {
    start.target.as_deref().ok_or_else(|| {
        Error::invalid("which machine? `revenant points` lists them, `revenant recover list` lists recoveries")
    })
}

fn wish(cli: &Cli, start: &RecoverStart) -> Result<Wish> {
    if start.user.is_some() && start.through != Door::Smb {
        return Err(Error::invalid("--user is for shares: by --through smb"));
    }
    datastore::kind(start.through, start.format)?;
    Ok(Wish {
        target: target(start)?.to_owned(),
        sources: absolute(&cli.sources)?,
        door: start.through,
        format: start.format,
        login: smb::login(start.user.as_deref(), start.password_file.as_deref())?,
        listen: start.listen.clone(),
        allow: start.allow.clone(),
        quota: start.overlay_quota,
        run: start.run()?,
        firmware: start.firmware,
        fix: start.fix_guest,
        lease: start.lease.map(|minutes| minutes.saturating_mul(60)),
    })
}

/// The sources as a process finds them that has another folder, environment and configuration.
fn absolute(sources: &Sources) -> Result<Sources> {
    let options = config::options(sources)?;
    let here = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let all = |paths: &[PathBuf]| paths.iter().map(here).collect();
    let catalog = options.catalog.map(|url| match url.strip_prefix("sqlite:") {
        Some(file) => format!("sqlite:{}", here(&PathBuf::from(file)).display()),
        None => url,
    });
    Ok(Sources {
        volumes: all(&options.volumes),
        catalog,
        keys: all(&options.keys),
        volume_keys: options.volume_keys.as_ref().map(here),
        unlock: config::unlock(sources)?.iter().map(here).collect(),
        images: all(&sources.images),
        cache: options.cache.as_ref().map(here),
        config: sources.config.as_ref().map(here),
        json: false,
        quiet: true,
        ..sources.clone()
    })
}

fn tell_quote(cli: &Cli, start: &RecoverStart) -> Result<u8> {
    let opened = Arc::new(open_sources(&cli.sources)?);
    let quote = quote::quote(&cli.sources, &opened, target(start)?)?;
    let number = |key: &str| quote[key].as_u64().unwrap_or_default();
    let seconds = |key: &str| quote[key].as_f64().unwrap_or_default();
    let list = |key: &str| {
        let texts: Vec<_> = quote[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
    };
    let text = if cli.sources.json {
        format!("{quote:#}\n")
    } else {
        format!(
            "restore point  {}\ndisks          {} of {}, {} of data\nvolumes        {}\nmissing        {}\n\
             reading        {}/s in a row, {:.1} ms for 16 KiB anywhere\n\
             until it runs  {:.0} s of reading, beside what the machine takes by itself\nwhole copy     {:.0} s\n",
            quote["point"].as_str().unwrap_or_default(),
            number("disks"),
            size(number("bytes")),
            size(number("data_bytes")),
            list("volumes"),
            list("missing"),
            size(number("read_bytes_per_second")),
            seconds("random_read_seconds") * 1000.0,
            seconds("boot_reading_seconds").ceil(),
            seconds("full_copy_seconds").ceil(),
        )
    };
    let mut out = output::stdout();
    output::written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?;
    Ok(u8::from(quote["online"] != true))
}

/// One session or a list of them.
fn tell(cli: &Cli, told: &Value) -> Result<()> {
    let mut out = output::stdout();
    if cli.sources.json {
        return output::written(writeln!(out, "{told:#}").and_then(|()| out.flush()));
    }
    let sessions = told.as_array().map_or(std::slice::from_ref(told), Vec::as_slice);
    let head = ["SESSION", "STATE", "AGE", "READ", "WRITTEN", "OVERLAY", "POINT", "DISKS"];
    let rows: Vec<_> = sessions.iter().map(row).collect();
    output::written(output::table(&mut out, &head, &[2, 3, 4, 5], &rows).and_then(|()| out.flush()))?;
    for session in sessions {
        if let (Some(id), Some(problem)) = (session["id"].as_str(), session["problem"].as_str()) {
            output::note(&format!("{id}: {problem}"));
        }
    }
    Ok(())
}

/// One session, and how to get at its machine.
fn show(cli: &Cli, session: &Value) -> Result<()> {
    tell(cli, session)?;
    let machine = &session["machine_state"];
    if cli.sources.json || machine.is_null() {
        return Ok(());
    }
    let mut lines = String::new();
    for (name, key) in [
        ("machine", "state"),
        ("process", "pid"),
        ("domain", "domain"),
        ("console", "console"),
        ("console log", "console_log"),
        ("screen (VNC)", "vnc"),
        ("monitor (QMP)", "qmp"),
    ] {
        match &machine[key] {
            Value::Null => {}
            Value::String(text) => lines.push_str(&format!("{name:<14} {text}\n")),
            other => lines.push_str(&format!("{name:<14} {other}\n")),
        }
    }
    let mut out = output::stdout();
    output::written(write!(out, "{lines}").and_then(|()| out.flush()))
}

fn row(session: &Value) -> Vec<String> {
    let text = |key: &str| session[key].as_str().unwrap_or_default().to_owned();
    let bytes = |key: &str| size(session[key].as_u64().unwrap_or_default());
    let all = |list: &str, key: &str| -> Vec<String> {
        let entries = session[list].as_array().into_iter().flatten();
        entries.filter_map(|disk| disk[key].as_str().map(str::to_owned)).collect()
    };
    // Those that have moved are where they were moved to.
    let places = [all("disks", "uri"), all("moved_to", "path")].concat();
    vec![
        text("id"),
        text("state"),
        age(session["age"].as_u64().unwrap_or_default()),
        bytes("bytes_read"),
        bytes("bytes_written"),
        bytes("overlay_bytes"),
        text("point"),
        places.join(" "),
    ]
}

/// Seconds for people: `3 d 4 h`.
fn age(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}
