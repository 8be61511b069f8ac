//! The results as Markdown, on the terminal and in `docs/benchmarks.md`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::measure::Cost;
use crate::cmd;

/// The columns of a table of whole commands.
const COMMANDS: [&str; 5] = ["median s", "CPU s", "GB/s", "peak MiB", "read"];

/// A group of commands that do the same job, measured in one run.
pub struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Row>,
}

/// What was measured, its cells (or why not), and the command line.
struct Row {
    what: String,
    line: String,
    cells: Result<Vec<String>, String>,
}

/// What became of a row.
pub enum Outcome {
    /// Measured; with the bytes that the command had to deliver, for its rate.
    Measured(Cost, Option<u64>),
    /// Not measured, and why.
    Skipped(String),
}

impl Table {
    /// An empty table of commands.
    pub fn new(title: &str) -> Self {
        Self::with_columns(title, &COMMANDS)
    }

    /// An empty table of other figures.
    pub fn with_columns(title: &str, columns: &[&'static str]) -> Self {
        Self { title: title.to_owned(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: what was measured, and the command line that can be typed to measure it again.
    pub fn add(&mut self, what: &str, line: &str, outcome: Outcome) {
        let cells = match outcome {
            Outcome::Measured(cost, bytes) => {
                #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
                let rate = bytes.map_or_else(String::new, |b| format!("{:.2}", b as f64 / cost.seconds / 1e9));
                Ok(vec![
                    seconds(cost.seconds),
                    format!("{:.2}", cost.cpu_seconds),
                    rate,
                    cost.peak_bytes.div_ceil(1 << 20).to_string(),
                    amount(cost.read_bytes),
                ])
            }
            Outcome::Skipped(why) => Err(why),
        };
        self.add_cells(what, line, cells);
    }

    /// Adds a row of a table with other columns; or why it could not be measured.
    pub fn add_cells(&mut self, what: &str, line: &str, cells: Result<Vec<String>, String>) {
        self.rows.push(Row { what: what.to_owned(), line: line.to_owned(), cells });
    }

    /// Adds a row for each of `rows`, in a table of two columns: seconds, and how many times those of row `base` they are.
    pub fn add_relative(&mut self, rows: Vec<(String, String, anyhow::Result<Cost>)>, base: usize) {
        let base = rows.get(base).and_then(|(_, _, cost)| cost.as_ref().ok()).map(|cost| cost.seconds);
        for (what, line, cost) in rows {
            let cells = cost.map_err(|error| format!("{error:#}")).map(|cost| {
                let ratio = base.map_or_else(String::new, |base| format!("{:.2}", cost.seconds / base));
                vec![seconds(cost.seconds), ratio]
            });
            eprintln!("  {what}: {cells:?}");
            self.add_cells(&what, &line, cells);
        }
    }

    /// The table as Markdown; `shorten` names that replace long paths of this machine, longest first.
    pub fn markdown(&self, shorten: &[(String, &str)]) -> String {
        let head = self.columns.join(" | ");
        let rule = "---|".repeat(self.columns.len() + 2);
        let mut out = format!("### {}\n\n| what | {head} | command |\n|{rule}\n", self.title);
        for row in &self.rows {
            let line = shorten.iter().fold(row.line.clone(), |line, (long, short)| line.replace(long, short));
            let line = line.replace('|', "\\|");
            let cells = match &row.cells {
                Ok(cells) => cells.join(" | "),
                Err(why) => {
                    let rest = " |".repeat(self.columns.len() - 1);
                    format!("not measured: {}{rest}", why.replace('|', "/").replace('\n', " "))
                }
            };
            out.push_str(&format!("| {} | {cells} | `{line}` |\n", row.what));
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
pub fn append(document: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().append(true).create(true).open(document);
    file.as_mut().ok().context(document.display().to_string())?.write_all(text.as_bytes())?;
    eprintln!("appended to {}", document.display());
    Ok(())
}
