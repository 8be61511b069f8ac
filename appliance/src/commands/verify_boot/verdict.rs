//! What came of a trial: for people, for programs, and in files beside a picture of the screen.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use blockdev::{Error, Result};
use serde_json::{Value, json};

use super::trial::{Figures, Trial};
use crate::output::{self, size};

/// The last of a console that is kept in a report, in bytes.
const CONSOLE_MAX: usize = 1 << 20;

/// When things happened, from the beginning.
#[derive(Debug, Default)]
pub struct Times {
    /// QEMU answered.
    pub process_start: Option<Duration>,
    /// A disk was read first: the firmware looks for what to start.
    pub first_read: Option<Duration>,
    /// The first character on the serial console: firmware, boot loader or kernel.
    pub first_console: Option<Duration>,
    /// A kernel spoke on the serial console.
    pub kernel: Option<Duration>,
    /// A sign was seen.
    pub ready: Option<Duration>,
}

/// What came of it.
pub struct Verdict {
    path: String,
    report: PathBuf,
    /// `ready`, or what happened instead.
    pub outcome: String,
    /// The sign that was seen.
    pub met: Option<String>,
    pub times: Times,
    firmware: String,
    memory_mib: u64,
    screenshot: Option<PathBuf>,
    console: Option<PathBuf>,
    notes: Vec<String>,
    disks: Vec<Figures>,
}

impl Verdict {
    pub fn new(path: &OsStr, report: PathBuf) -> Result<Self> {
        let made = fs::create_dir_all(&report);
        made.map_err(|e| Error::io(format!("cannot make the folder {}", report.display()), e))?;
        Ok(Self {
            path: path.to_string_lossy().into_owned(),
            report,
            outcome: String::new(),
            met: None,
            times: Times::default(),
            firmware: String::new(),
            memory_mib: 0,
            screenshot: None,
            console: None,
            notes: Vec::new(),
            disks: Vec::new(),
        })
    }

    pub fn is_ready(&self) -> bool {
        self.outcome == "ready"
    }

    pub fn started(&mut self, trial: &Trial, took: Duration) {
        self.times.process_start = Some(took);
        self.firmware = trial.machine.firmware.map_or("bios", |f| f.name()).to_owned();
        self.memory_mib = trial.running.spec().settings.memory_mib.unwrap_or(trial.machine.memory_mib);
        self.notes.clone_from(&trial.running.notes);
    }

    /// Keeps what it shows and what it said.
    pub fn picture(&mut self, trial: &Trial) {
        let path = self.report.join("screen.png");
        match trial.running.screenshot(&path) {
            Ok(()) => self.screenshot = Some(path),
            // A machine that has shut down shows nothing.
            Err(_) if self.outcome == "shut down" => {}
            Err(e) => self.notes.push(e.to_string()),
        }
        let Ok(said) = fs::read(trial.console()) else { return };
        let last = said.get(said.len().saturating_sub(CONSOLE_MAX)..).unwrap_or_default();
        let path = self.report.join("console.log");
        match fs::write(&path, last) {
            Ok(()) => self.console = Some(path),
            Err(e) => self.notes.push(format!("cannot write {}: {e}", path.display())),
        }
    }

    /// What was read and written for it.
    pub fn ended(&mut self, figures: Vec<Figures>, begun: Instant) {
        let first = figures.iter().filter_map(|f| f.first_read).min();
        self.times.first_read = first.map(|at| at.saturating_duration_since(begun));
        self.disks = figures;
    }

    fn value(&self) -> Value {
        let ms = |at: Option<Duration>| at.map(|at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
        let disk = |f: &Figures| {
            json!({
                "name": f.name, "reads": f.reads, "read": f.read, "read_ahead": f.ahead, "read_ahead_used": f.ahead_used,
                "overlay": f.overlay,
            })
        };
        let times = &self.times;
        json!({
            "path": self.path,
            "verdict": self.outcome,
            "sign": self.met,
            "times_ms": {
                "process_start": ms(times.process_start),
                "first_read": ms(times.first_read),
                "first_console": ms(times.first_console),
                "kernel": ms(times.kernel),
                "ready": ms(times.ready),
            },
            "firmware": self.firmware,
            "memory_mib": self.memory_mib,
            "disks": self.disks.iter().map(disk).collect::<Vec<_>>(),
            "notes": self.notes,
            "screenshot": self.screenshot,
            "console": self.console,
        })
    }

    /// Keep it.
    pub fn save(&self) -> Result<()> {
        let path = self.report.join("verdict.json");
        let written = fs::write(&path, format!("{:#}\n", self.value()));
        written.map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
    }

    pub fn tell(&self, json: bool) -> Result<()> {
        let mut out = output::stdout();
        let text = if json {
            format!("{:#}", self.value())
        } else {
            let after = self.times.ready.map(|at| format!(" after {:.1} s", at.as_secs_f64())).unwrap_or_default();
            let sign = self.met.as_ref().map(|sign| format!(" ({sign})")).unwrap_or_default();
            let read: u64 = self.disks.iter().map(|f| f.read).sum();
            let mut text = format!(
                "{}: {}{after}{sign}, {} read; report in {}",
                self.path,
                self.outcome,
                size(read),
                self.report.display()
            );
            self.notes.iter().for_each(|note| text.push_str(&format!("\n  note: {note}")));
            text
        };
        output::written(writeln!(out, "{text}").and_then(|()| out.flush()))
    }
}
