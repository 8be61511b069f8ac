//! The program as a server: started, found by what it tells, ended by a signal.

use std::{
    io::{BufRead, BufReader, Read, Seek},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a server may take to begin, and to end.
const LIMIT: Duration = Duration::from_secs(60);

/// A server in a process of its own. It is killed when it is dropped.
#[derive(Debug)]
pub struct Served {
    /// The process.
    pub child: Child,
    /// The first line that it printed, as JSON.
    pub told: Value,
    stderr: std::fs::File,
    _stdout: BufReader<ChildStdout>,
}

impl Served {
    /// Starts `command`, which has to print a line of JSON when it can be used.
    ///
    /// # Panics
    ///
    /// When it does not, with what it said instead.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let stderr = tempfile::tempfile().expect("a file");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr.try_clone().expect("a second handle"));
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", command.get_program().display()));
        let mut stdout = BufReader::new(child.stdout.take().expect("its output"));
        let (line, told) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut text = String::new();
            let _ = stdout.read_line(&mut text);
            let _ = line.send(text);
            stdout
        });
        let text = told.recv_timeout(LIMIT).unwrap_or_default();
        let Ok(told) = serde_json::from_str(&text) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the server did not begin: {text}{}", said(&stderr));
        };
        let stdout = reader.join().expect("the reader");
        Self { child, told, stderr, _stdout: stdout }
    }

    /// A text of what it told.
    ///
    /// # Panics
    ///
    /// When it told none.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.told[key].as_str().unwrap_or_else(|| panic!("no text {key} in {}", self.told))
    }

    /// The port that it told.
    ///
    /// # Panics
    ///
    /// When it told none.
    #[must_use]
    pub fn port(&self) -> u64 {
        self.told["port"].as_u64().unwrap_or_else(|| panic!("no port in {}", self.told))
    }

    /// What it printed on standard error so far.
    #[must_use]
    pub fn said(&self) -> String {
        said(&self.stderr)
    }

    /// The most memory that it ever had, in bytes.
    ///
    /// # Panics
    ///
    /// When the kernel does not tell.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Kills it.
    ///
    /// # Panics
    ///
    /// When it has ended already.
    pub fn kill(mut self) {
        self.child.kill().expect("a signal");
        self.child.wait().expect("its end");
    }

    /// Sends it a signal and waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        let _ = kill_process(Pid::from_child(&self.child), signal);
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waiting") {
                return status;
            }
            assert!(start.elapsed() < LIMIT, "the server does not end: {}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn said(mut stderr: &std::fs::File) -> String {
    let mut text = String::new();
    let _ = stderr.rewind().and_then(|()| stderr.read_to_string(&mut text));
    text
}

impl Drop for Served {
    fn drop(&mut self) {
        // Politely first: it may have something mounted.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let start = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < LIMIT {
                thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
