//! A recovery: a volume, a folder for the state, and the program on both.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    case,
    program::{self, Run, run_within},
    served::Served,
    temp,
};

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A volume with a machine of two disks, a folder for the state, and the program on both.
#[derive(Debug)]
pub struct Recovery {
    /// The volume's folder.
    pub volumes: TempDir,
    /// The state's.
    pub state: TempDir,
    cache: TempDir,
    before: Vec<u8>,
}

impl Default for Recovery {
    fn default() -> Self {
        Self::new()
    }
}

impl Recovery {
    /// With nothing in the state.
    ///
    /// # Panics
    ///
    /// When the volume cannot be written.
    #[must_use]
    pub fn new() -> Self {
        let volumes = case::machine_volume();
        let before = fs::read(volumes.path().join("web01-0001")).expect("the volume");
        Self { volumes, state: temp(), cache: temp(), before }
    }

    /// The program with `words`.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program::path());
        command.arg("--volumes").arg(self.volumes.path()).arg("--cache").arg(self.cache.path());
        command.args(words).arg("--state").arg(self.state.path());
        command
    }

    /// Runs it; what it prints is JSON.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Run {
        run_within(self.command(words).arg("--json"), LIMIT)
    }

    /// A daemon for the state.
    #[must_use]
    pub fn daemon(&self) -> Served {
        let mut command = Command::new(program::path());
        Served::start(command.args(["serve", "--json", "--state"]).arg(self.state.path()))
    }

    /// All recoveries.
    ///
    /// # Panics
    ///
    /// When they cannot be listed.
    #[must_use]
    pub fn list(&self) -> Vec<Value> {
        self.run(&["recover", "list"]).json().as_array().expect("a list").clone()
    }

    /// Waits until the sessions are as `is` wants them.
    ///
    /// # Panics
    ///
    /// When they do not become so.
    pub fn until(&self, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let sessions = self.list();
            if is(&sessions) {
                return sessions;
            }
            assert!(begun.elapsed() < LIMIT, "{sessions:#?}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What is left in the folder of sessions.
    ///
    /// # Panics
    ///
    /// When there is no such folder.
    #[must_use]
    pub fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state.path().join("sessions")).expect("the folder of sessions");
        entries.map(|e| e.expect("an entry").path()).collect()
    }

    /// The daemon is killed at each step of beginning a session by `begin`, and of ending one: the next daemon goes on,
    /// everything can be stopped, and nothing is left. How many steps there were.
    ///
    /// # Panics
    ///
    /// When it is not so.
    #[must_use]
    pub fn daemon_is_killed_at_each_step(&self, begin: &[&str]) -> (usize, usize) {
        let kill = |mut daemon: Served| {
            daemon.child.kill().expect("a signal");
            daemon.child.wait().expect("its end");
        };
        let mut steps = 0;
        loop {
            let daemon = self.daemon();
            let reached = at_step(self.command(begin), steps, || kill(daemon));
            let _daemon = self.daemon();
            for session in self.until(|all| all.iter().all(|s| s["served"] == true && s["state"] == "ready")) {
                let _ = self.run(&["recover", "stop", session["id"].as_str().expect("a name")]).good();
            }
            assert_eq!((self.list(), self.left()), (Vec::new(), Vec::new()), "step {steps}");
            if !reached {
                break;
            }
            steps += 1;
        }
        let mut ends = 0;
        loop {
            let daemon = self.daemon();
            let session = self.run(begin).json();
            let id = session["id"].as_str().expect("a name");
            let reached = at_step(self.command(&["recover", "stop", id]), ends, || kill(daemon));
            let _daemon = self.daemon();
            self.until(<[Value]>::is_empty);
            assert_eq!(self.left(), Vec::<PathBuf>::new(), "step {ends}");
            if !reached {
                break;
            }
            ends += 1;
        }
        self.assert_unchanged();
        (steps, ends)
    }

    /// The backup is as it was.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn assert_unchanged(&self) {
        let now = fs::read(self.volumes.path().join("web01-0001")).expect("the volume");
        assert!(now == self.before, "the backup is as it was");
    }
}

/// What clients find a session's disk by.
///
/// # Panics
///
/// When it is not told.
#[must_use]
pub fn uri(session: &Value, disk: usize) -> String {
    session["disks"][disk]["uri"].as_str().expect("a URI").to_owned()
}

/// Runs commands of qemu-io on a disk of raw bytes.
///
/// # Panics
///
/// When one fails.
pub fn io(uri: &str, commands: &[&str]) {
    io_as("raw", uri, commands);
}

/// Runs commands of qemu-io on an image.
///
/// # Panics
///
/// When one fails.
pub fn io_as(format: &str, image: &str, commands: &[&str]) {
    let mut command = Command::new("qemu-io");
    command.args(["-f", format, image]);
    for line in commands {
        command.args(["-c", line]);
    }
    let run = run_within(&mut command, LIMIT).good();
    assert!(!run.text().contains("verification failed"), "{}", run.text());
}

/// Runs a command and calls `at` when it tells its step number `number`; whether it came so far.
///
/// # Panics
///
/// When it cannot be run.
pub fn at_step(mut command: Command, number: usize, at: impl FnOnce()) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program");
    let mut lines = BufReader::new(child.stderr.take().expect("its notes")).lines();
    let reached = lines.nth(number).is_some();
    if reached {
        at();
    }
    lines.for_each(drop);
    child.wait().expect("its end");
    reached
}

/// Runs commands of qemu-io in a running QEMU, as if its guest wrote: what comes back was acknowledged to the guest.
///
/// # Panics
///
/// When one fails.
pub fn as_guest(session: &Value, disk: &str, commands: &[&str]) {
    let path = session["machine_state"]["qmp"].as_str().expect("a monitor");
    let stream = UnixStream::connect(path).expect("the monitor");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut lines = BufReader::new(&stream)
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("JSON"));
    let mut execute = |command: &str, arguments: Value| {
        let request = json!({ "execute": command, "arguments": arguments });
        (&stream).write_all(format!("{request}\n").as_bytes()).expect("a request");
        let reply = lines.find(|line| line.get("event").is_none() && line.get("QMP").is_none()).expect("a reply");
        assert!(reply.get("error").is_none(), "{reply}");
        reply["return"].clone()
    };
    execute("qmp_capabilities", json!({}));
    let blocks = execute("query-block", json!({}));
    let all = blocks.as_array().expect("disks");
    let disk = all.iter().filter_map(|b| b["qdev"].as_str()).find(|qdev| qdev.contains(disk));
    let disk = disk.unwrap_or_else(|| panic!("{blocks:#}"));
    for line in commands {
        let line = format!("qemu-io -d {disk} \"{line}\"");
        let said = execute("human-monitor-command", json!({ "command-line": line }));
        let said = said.as_str().unwrap_or_default();
        assert!(!said.contains("failed") && !said.contains("Error"), "{line}: {said}");
    }
}
