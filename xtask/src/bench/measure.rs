//! One measured run of a shell command line: time, processor time, peak memory, bytes read.
//!
//! The kernel keeps the peak memory of children as one maximum for all of them, so each run gets a parent of its own:
//! this program, called again as `xtask measure`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cmd;

/// What one run cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Cost {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// User and system seconds, all threads and children.
    pub cpu_seconds: f64,
    /// Largest resident set of any process of the run, bytes.
    pub peak_bytes: u64,
    /// Bytes that all processes of the run read by system calls, program libraries included.
    pub read_bytes: u64,
}

/// Several runs of the same, until one fails.
pub struct Costs(Result<Vec<Cost>>);

impl Default for Costs {
    fn default() -> Self {
        Self(Ok(Vec::new()))
    }
}

impl Costs {
    /// Adds what `run` costs, unless one has failed before.
    pub fn add(&mut self, run: impl FnOnce() -> Result<Cost>) {
        let Ok(all) = &mut self.0 else { return };
        match run() {
            Ok(cost) => all.push(cost),
            Err(error) => self.0 = Err(error),
        }
    }

    /// The run of median time; the failure, if one has failed.
    pub fn median(self) -> Result<Cost> {
        let mut costs = self.0?;
        costs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        costs.get(costs.len() / 2).copied().context("at least one run is needed")
    }
}

/// Runs `line` `runs` times, `prepare` before each and untimed, after one run to warm up; the run of median time.
pub fn median(prepare: Option<&str>, line: &str, runs: usize) -> Result<Cost> {
    single(prepare, line)?;
    let mut costs = Costs::default();
    (0..runs).for_each(|_| costs.add(|| single(prepare, line)));
    costs.median()
}

/// What is run before a line, untimed, and the line.
pub type Prepared<'a> = (Option<&'a str>, &'a str);

/// Runs `lines` in turn, `runs` rounds of them all, so that a busy moment hits them alike; the run of median time of each.
pub fn in_turn(lines: &[Prepared<'_>], runs: usize) -> Vec<Result<Cost>> {
    let mut all: Vec<Costs> = lines.iter().map(|_| Costs::default()).collect();
    for _ in 0..runs {
        for ((prepare, line), costs) in lines.iter().zip(&mut all) {
            costs.add(|| single(*prepare, line));
        }
    }
    all.into_iter().map(Costs::median).collect()
}

/// Runs `prepare`, untimed, and then `line`, once and with no run to warm up: for what takes minutes.
pub fn single(prepare: Option<&str>, line: &str) -> Result<Cost> {
    if let Some(prepare) = prepare {
        cmd::run_quietly(&mut cmd::command("sh", ["-c", prepare]))?;
    }
    in_own_process(line)
}

fn in_own_process(line: &str) -> Result<Cost> {
    let result = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("measure").arg(result.path()).arg(line);
    cmd::run_quietly(&mut command)?;
    Ok(serde_json::from_slice(&fs::read(result.path())?)?)
}

/// The body of `xtask measure`: runs `line` once and writes its [`Cost`] to `result`.
pub fn once(result: &Path, line: &str) -> Result<()> {
    let start = Instant::now();
    let mut child = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).spawn()?;
    let pid = child.id();
    // The counters of /proc are gone once the child is waited for.
    waitid(Id::Pid(Pid::from_raw(pid.cast_signed())), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
    let seconds = start.elapsed().as_secs_f64();
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let status = child.wait()?;
    if !status.success() {
        bail!("{status}: {line}");
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = [usage.user_time(), usage.system_time()].map(|t| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6);
    let read_bytes = io.lines().find_map(|l| l.strip_prefix("rchar: ")).and_then(|n| n.parse().ok()).unwrap_or(0);
    let cost = Cost {
        seconds,
        cpu_seconds: cpu.iter().sum(),
        peak_bytes: u64::try_from(usage.max_rss()).unwrap_or(0) << 10,
        read_bytes,
    };
    Ok(fs::write(result, serde_json::to_vec(&cost)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_measured_and_a_failing_one_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        once(file.path(), "head -c 50000000 /dev/zero | cat >/dev/null; sleep 0.1").unwrap();
        let cost: Cost = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
        assert!(cost.seconds >= 0.1, "{cost:?}");
        assert!(cost.read_bytes >= 100_000_000 && cost.read_bytes < 110_000_000, "{cost:?}");
        assert!(cost.peak_bytes > 100_000, "{cost:?}");
        assert!(once(file.path(), "exit 4").unwrap_err().to_string().contains("exit 4"));
    }
}
