//! `revenant verify --boot`: whether a machine comes up from what is in the backup.
//!
//! Its disks are served from here to a QEMU of this host, each over an overlay that is thrown away, and it is in a
//! network with nothing in it. What it was read for is kept, so that its next start reads ahead (`boot_traces`).
//!
//! * `trial`: all that is made for it, and that nothing of it is left, however it ends;
//! * `signs`: what shows that it has come up; `verdict`: what came of it.

mod signs;
mod trial;
mod verdict;

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use blockdev::{Error, ErrorKind, Result};
use hv_drivers::{driver::State, machine::Firmware, qemu::console, qmp::EventKind};

use self::{
    signs::Signs,
    trial::Trial,
    verdict::{Times, Verdict},
};
use super::{cancel_flag, machine, source::Disks};
use crate::{
    boot_traces,
    cli::{BootOptions, Cli},
    config,
};

/// How often it is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How much of its console is kept in a file.
const CONSOLE_MAX: u64 = 16 << 20;

pub fn run(cli: &Cli, paths: &[OsString], options: &BootOptions) -> Result<u8> {
    let cancel = cancel_flag()?;
    let disks = Disks::new(cli);
    let mut worst = 0;
    for path in paths {
        let report = match &options.report {
            Some(folder) if paths.len() > 1 => folder.join(boot_traces::file_name(&path.to_string_lossy())),
            Some(folder) => folder.clone(),
            None => cache(cli)?.join("boots").join(boot_traces::file_name(&path.to_string_lossy())),
        };
        let verdict = one(cli, &disks, path, options, &cancel, report)?;
        verdict.tell(cli.sources.json)?;
        worst = worst.max(u8::from(!verdict.is_ready()));
        if cancel.load(Relaxed) {
            break;
        }
    }
    Ok(worst)
}

/// The folder for what is kept, or is large.
fn cache(cli: &Cli) -> Result<PathBuf> {
    let cache = config::options(&cli.sources)?.cache;
    cache.ok_or_else(|| Error::invalid("there is no folder to keep things in; name one by --cache"))
}

fn one(
    cli: &Cli,
    disks: &Disks<'_>,
    path: &OsStr,
    options: &BootOptions,
    cancel: &std::sync::atomic::AtomicBool,
    report: PathBuf,
) -> Result<Verdict> {
    let mut signs = Signs::parse(&options.wait_for)?;
    let mut found = machine::find(disks, path, None)?;
    if let Some(name) = &options.firmware {
        let unknown = || Error::invalid(format!("there is no firmware {name}; there are bios, uefi and secure-boot"));
        found.machine.firmware = Some(Firmware::of_name(name).ok_or_else(unknown)?);
    }
    let mut verdict = Verdict::new(path, report)?;
    let begun = Instant::now();
    let mut trial = Trial::start(&cache(cli)?, &machine::name_of(path), found, options, &signs)?;
    verdict.started(&trial, begun.elapsed());
    let outcome =
        watch(&mut trial, &mut signs, cancel, begun, Duration::from_secs(options.timeout), &mut verdict.times);
    verdict.outcome = outcome.unwrap_or_else(|e| format!("failed: {e}"));
    verdict.met = signs.met();
    verdict.picture(&trial);
    verdict.ended(trial.end(verdict.is_ready()), begun);
    verdict.save()?;
    Ok(verdict)
}

/// Looks at the machine until it is decided; the outcome.
fn watch(
    trial: &mut Trial,
    signs: &mut Signs,
    cancel: &std::sync::atomic::AtomicBool,
    begun: Instant,
    timeout: Duration,
    times: &mut Times,
) -> Result<String> {
    let kernel = console::pattern("/Linux version |^\\[ +[0-9]+\\.[0-9]{6}\\]|Windows/")?;
    let mut events = trial.running.events()?;
    let mut console = trial.running.console();
    trial.running.resume()?;
    loop {
        if console.poll()? {
            times.first_console.get_or_insert_with(|| begun.elapsed());
            if times.kernel.is_none() && console.matches(&kernel) {
                times.kernel = Some(begun.elapsed());
            }
            console::bound(trial.running.folder(), CONSOLE_MAX)?;
        }
        if signs.look(&trial.running, &console)? {
            times.ready = Some(begun.elapsed());
            return Ok("ready".into());
        }
        if cancel.load(Relaxed) {
            return Ok("cancelled".into());
        }
        if begun.elapsed() > timeout {
            return Ok("timeout".into());
        }
        match events.event(TICK) {
            Ok(None) => {}
            Ok(Some(event)) => match event.kind() {
                EventKind::Panicked => return Ok("panicked".into()),
                EventKind::IoError { disk, paused: true, no_space, .. } => {
                    let why =
                        if no_space { "there is no room for what it writes" } else { "its backup cannot be read" };
                    return Ok(format!("disk error: {disk}: {why}"));
                }
                _ => {}
            },
            // QEMU ends when its guest shuts down.
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok("shut down".into()),
            Err(e) => match trial.running.state()? {
                State::Off => return Ok("shut down".into()),
                _ => return Err(e),
            },
        }
    }
}
