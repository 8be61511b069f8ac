//! Recoveries: a volume with a machine of two disks, the daemon and the commands on it, and the machines that QEMU runs.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    case, compare,
    program::{self, Run, run_within},
    served::Served,
    temp,
    tiny_guest::{Said, Writer},
};

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A volume with a machine of two disks, a folder for the state, and the program on both.
#[derive(Debug)]
pub struct Recovery {
    /// The folder with the volume `web01-0001`.
    pub volumes: TempDir,
    /// The state's.
    pub state: TempDir,
    /// What is kept.
    pub cache: TempDir,
    before: String,
}

impl Recovery {
    /// With nothing in the state.
    #[must_use]
    pub fn new() -> Self {
        Self::in_state(temp())
    }

    /// With that state folder.
    ///
    /// # Panics
    ///
    /// When the volume cannot be written.
    #[must_use]
    pub fn in_state(state: TempDir) -> Self {
        let volumes = case::machine_volume();
        let before = compare::sha256(&volumes.path().join("web01-0001")).expect("the volume");
        Self { volumes, state, cache: temp(), before }
    }

    /// A command with the state folder.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program::path());
        command.arg("--volumes").arg(self.volumes.path()).arg("--cache").arg(self.cache.path());
        command.args(words).arg("--state").arg(self.state.path());
        command
    }

    /// Runs a command.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Run {
        run_within(self.command(words).arg("--json"), LIMIT)
    }

    /// Begins a session whose machine QEMU runs, with little memory, no network, and a BIOS.
    #[must_use]
    pub fn on_qemu(&self, more: &[&str]) -> Session {
        let words = ["recover", "web01", "--on", "qemu", "--memory", "64", "--network", "none", "--firmware", "bios"];
        let value = self.run(&[&words[..], more].concat()).json();
        assert_eq!((&value["state"], &value["machine_state"]["state"]), (&json!("running"), &json!("running")));
        Session { value }
    }

    /// Starts a daemon.
    #[must_use]
    pub fn daemon(&self) -> Served {
        let mut command = Command::new(program::path());
        Served::start(command.args(["serve", "--json", "--state"]).arg(self.state.path()))
    }

    /// The sessions.
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
    /// When they are not, after a while.
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
    #[must_use]
    pub fn left(&self) -> Vec<PathBuf> {
        entries(&self.state.path().join("sessions"))
    }

    /// The daemon is killed at each step of beginning a session by `begin`, and of ending one: the next daemon goes on,
    /// everything can be stopped, and nothing is left. How many steps there were.
    ///
    /// # Panics
    ///
    /// When it is not so.
    #[must_use]
    pub fn daemon_is_killed_at_each_step(&self, begin: &[&str]) -> (usize, usize) {
        let mut steps = 0;
        loop {
            let daemon = self.daemon();
            let reached = at_step(self.command(begin), steps, || daemon.kill());
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
            let reached = at_step(self.command(&["recover", "stop", id]), ends, || daemon.kill());
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

    /// Asserts that there are no sessions and nothing of them; `what` says when.
    ///
    /// # Panics
    ///
    /// When there is.
    pub fn assert_nothing_left(&self, what: &str) {
        let left = [self.left(), entries(&self.state.path().join("machines"))].concat();
        assert_eq!((self.list(), left), (Vec::new(), Vec::new()), "{what}");
    }

    /// Asserts that the volume is as it was.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn assert_unchanged(&self) {
        let now = compare::sha256(&self.volumes.path().join("web01-0001")).expect("the volume");
        assert_eq!(now, self.before, "the backup is as it was");
    }
}

impl Default for Recovery {
    fn default() -> Self {
        Self::new()
    }
}

/// What is in a folder; nothing if it is not there.
///
/// # Panics
///
/// When an entry cannot be read.
#[must_use]
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|e| e.expect("an entry").path()).collect()
}

/// What clients find a disk of a session by.
///
/// # Panics
///
/// When it is not served.
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
    assert!(!run.text().contains("failed"), "{}", run.text());
}

/// Copies a disk, by its URI or path, into the raw file `to`.
///
/// # Panics
///
/// When it cannot be read.
pub fn copy(format: &str, from: &str, to: &Path) {
    let mut command = Command::new("qemu-img");
    let _ = run_within(command.args(["convert", "-f", format, "-O", "raw", from]).arg(to), LIMIT).good();
}

/// Runs a command and calls `at` when it tells its step number `number`; whether it came so far.
///
/// # Panics
///
/// When the command cannot be run.
pub fn at_step(command: Command, number: usize, at: impl FnOnce()) -> bool {
    at_line(command, |count, _| count == number, at)
}

/// Runs a command and calls `at` at the first step that `is` the one, by its number and text; whether there was one.
///
/// # Panics
///
/// When the command cannot be run.
pub fn at_line(mut command: Command, is: impl Fn(usize, &str) -> bool, at: impl FnOnce()) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program");
    let lines = BufReader::new(child.stderr.take().expect("its notes")).lines();
    let mut at = Some(at);
    for (count, line) in lines.enumerate() {
        if is(count, &line.expect("a line"))
            && let Some(at) = at.take()
        {
            at();
        }
    }
    child.wait().expect("its end");
    at.is_none()
}

/// A session whose machine QEMU runs.
#[derive(Debug)]
pub struct Session {
    /// What was told of it.
    pub value: Value,
}

impl Session {
    /// Its name.
    ///
    /// # Panics
    ///
    /// When it has none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.value["id"].as_str().expect("a name")
    }

    /// What clients find a disk by.
    #[must_use]
    pub fn uri(&self, disk: usize) -> String {
        uri(&self.value, disk)
    }

    /// A file in the machine's folder.
    ///
    /// # Panics
    ///
    /// When there is no machine.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        let monitor = Path::new(self.value["machine_state"]["qmp"].as_str().expect("a monitor"));
        monitor.with_file_name(name)
    }

    /// Sends its QEMU a signal and waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn end(&self, signal: Signal) {
        let pid = fs::read_to_string(self.file("pid")).expect("a number");
        let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process");
        kill_process(pid, signal).expect("it runs");
        let begun = Instant::now();
        // It lets go of its files when it has ended.
        while test_kill_process(pid).is_ok() {
            assert!(begun.elapsed() < LIMIT, "QEMU does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a command of its second monitor, which nobody else uses.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn execute(&self, command: &str, arguments: &Value) -> Value {
        let stream = UnixStream::connect(self.file("events.sock")).expect("the monitor");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let mut lines = BufReader::new(&stream)
            .lines()
            .map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("JSON"));
        let mut execute = |command: &str, arguments: &Value| {
            let request = json!({ "execute": command, "arguments": arguments });
            (&stream).write_all(format!("{request}\n").as_bytes()).expect("a request");
            let reply = lines.find(|line| line.get("event").is_none() && line.get("QMP").is_none()).expect("a reply");
            assert!(reply.get("error").is_none(), "{command}: {reply}");
            reply["return"].clone()
        };
        execute("qmp_capabilities", &json!({}));
        execute(command, arguments)
    }

    /// Runs a command of qemu-io on a disk as if the guest did: what went well was acknowledged to it. What QEMU said of it.
    ///
    /// # Panics
    ///
    /// When there is no such disk.
    pub fn tried_as_guest(&self, disk: &str, line: &str) -> String {
        let blocks = self.execute("query-block", &json!({}));
        let all = blocks.as_array().expect("disks");
        let device = all.iter().filter_map(|b| b["qdev"].as_str()).find(|qdev| qdev.contains(disk));
        let device = device.unwrap_or_else(|| panic!("{blocks:#}"));
        // It says into its log what came of it, and nothing to the monitor.
        let log = self.file("qemu.log");
        let before = fs::read(&log).expect("a log").len();
        let line = format!("qemu-io -d {device} \"{line}\"");
        self.execute("human-monitor-command", &json!({ "command-line": line }));
        let said = fs::read(&log).expect("a log");
        String::from_utf8_lossy(&said[before..]).into_owned()
    }

    /// Runs commands of qemu-io on a disk as if the guest did.
    ///
    /// # Panics
    ///
    /// When one does not go well.
    pub fn as_guest(&self, disk: &str, lines: &[&str]) {
        for line in lines {
            let said = self.tried_as_guest(disk, line);
            let is_silent = line.starts_with("flush");
            assert!(is_silent || said.contains("ops;"), "{line}: {said}");
            assert!(!said.contains("failed") && !said.contains("rror"), "{line}: {said}");
        }
    }

    /// Lets the machine start the writer from its first disk; a copy of that as it was before is at `before`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn boot(&self, writer: &Writer, before: &Path) {
        let sector = before.with_extension("sector");
        fs::write(&sector, &writer.sector).expect("a file");
        io(&self.uri(0), &[&format!("write -s {} 0 512", sector.display()), "flush"]);
        copy("raw", &self.uri(0), before);
        self.execute("system_reset", &json!({}));
        self.writes(1, 10);
    }

    /// What its writer said.
    #[must_use]
    pub fn said(&self) -> Said {
        Said::read(&self.file("console.log"))
    }

    /// Waits until its writer said that so many blocks were written since its start number `start`, or more.
    ///
    /// # Panics
    ///
    /// When it does not, after a while.
    pub fn writes(&self, start: u8, blocks: u32) {
        let begun = Instant::now();
        while self.said().last() < (start, blocks) {
            let log = fs::read_to_string(self.file("qemu.log")).unwrap_or_default();
            assert!(begun.elapsed() < LIMIT, "{:?}: {log}", self.said());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until its writer said that `more` blocks were written beside those of now.
    pub fn writes_on(&self, more: u32) {
        let (start, blocks) = self.said().last();
        self.writes(start, blocks + more);
    }
}

/// Runs commands of qemu-io in a running QEMU, as if its guest wrote: what comes back was acknowledged to the guest.
///
/// # Panics
///
/// When one fails.
pub fn as_guest(session: &Value, disk: &str, commands: &[&str]) {
    Session { value: session.clone() }.as_guest(disk, commands);
}
