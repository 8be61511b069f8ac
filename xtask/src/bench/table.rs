//! The results as Markdown, on the terminal and in `docs/benchmarks.md`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::measure::Cost;
use crate::cmd;

/// A group of commands that do the same job, measured in one run.
pub struct Table {
    title: String,
    rows: Vec<(String, String, Outcome)>,
}

/// What became of a row.
pub enum Outcome {
    /// Measured; with the bytes that the command had to deliver, for its rate.
    Measured(Cost, Option<u64>),
    /// Not measured, and why.
    Skipped(String),
}

impl Table {
    /// An empty table.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: Vec::new() }
    }

    /// Adds a row: what was measured, and the command line that can be typed to measure it again.
    pub fn add(&mut self, what: &str, line: &str, outcome: Outcome) {
        self.rows.push((what.to_owned(), line.to_owned(), outcome));
    }

    /// The table as Markdown; `shorten` names that replace long paths of this machine, longest first.
    pub fn markdown(&self, shorten: &[(String, &str)]) -> String {
        let mut out = format!("### {}\n\n", self.title);
        out.push_str("| what | median s | CPU s | GB/s | peak MiB | read | command |\n|---|---|---|---|---|---|---|\n");
        for (what, line, outcome) in &self.rows {
            let line = shorten.iter().fold(line.clone(), |line, (long, short)| line.replace(long, short));
            let line = line.replace('|', "\\|");
            let cells = match outcome {
                Outcome::Measured(cost, bytes) => {
                    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
                    let rate = bytes.map_or_else(String::new, |b| format!("{:.2}", b as f64 / cost.seconds / 1e9));
                    format!(
                        "{} | {:.2} | {rate} | {} | {}",
                        seconds(cost.seconds),
                        cost.cpu_seconds,
                        cost.peak_bytes.div_ceil(1 << 20),
                        amount(cost.read_bytes)
                    )
                }
                Outcome::Skipped(why) => format!("not measured: {} | | | |", why.replace('|', "/").replace('\n', " ")),
            };
            out.push_str(&format!("| {what} | {cells} | `{line}` |\n"));
        }
        out.push('\n');
        out
    }
}

fn seconds(value: f64) -> String {
    if value < 0.1 { format!("{value:.4}") } else { format!("{value:.2}") }
}

fn amount(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

/// What ran the benchmarks: a line above the tables.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("").trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let commit = cmd::output(Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(cmd::root()))
        .map(|out| String::from_utf8_lossy(&out).trim().to_owned())
        .unwrap_or_default();
    format!("{model}, {cores} cores, {} GiB, Linux {}, commit {commit}", memory.div_ceil(1 << 20), kernel.trim())
}

/// Appends `text` to the document of benchmarks.
pub fn append(document: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().append(true).create(true).open(document);
    file.as_mut().ok().context(document.display().to_string())?.write_all(text.as_bytes())?;
    eprintln!("appended to {}", document.display());
    Ok(())
}
