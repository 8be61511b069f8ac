//! A machine's life: started, found again, asked, stopped.

use std::{
    fs,
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    accelerator,
    arguments::Parts,
    console::{self, Console},
    firmware,
    plan::Plan,
    process::{PID_FILE, Process},
};
use crate::{
    Error, ErrorKind, Result,
    driver::State,
    qmp::{Agent, Client},
    settings::{Accelerator, Spec},
};

/// What a machine was started with, in its folder.
const SPEC: &str = "run.json";
/// What QEMU itself says.
const LOG: &str = "qemu.log";
/// How long QEMU may take until it can be asked: it connects to all disks meanwhile.
const START: Duration = Duration::from_secs(60);
/// How long a command may take. Opening and closing disks waits for servers.
const COMMAND: Duration = Duration::from_secs(60);
/// How long QEMU may take to end when it was told to: it flushes its disks.
const QUIT: Duration = Duration::from_secs(30);
/// How long a killed process may take to be gone.
const KILLED: Duration = Duration::from_secs(10);

/// A machine that runs.
#[derive(Debug)]
pub struct Running {
    folder: PathBuf,
    process: Process,
    spec: Spec,
    /// What is other than described, a sentence each.
    pub notes: Vec<String>,
}

/// How a machine came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Its guest shut down.
    ByGuest,
    /// QEMU was told to end: for the guest that is a loss of power, for its disks it is not.
    ByQuit,
    /// QEMU did not answer and was killed.
    ByKill,
}

/// Start a machine in `folder`, which is made if need be. It goes on when this program ends.
///
/// # Errors
///
/// `Invalid` when one runs there already or cannot be told to QEMU, `Missing` when QEMU or UEFI is not installed, `Io`
/// when QEMU does not start, with what it said. Nothing of it runs then.
pub fn start(folder: &Path, spec: &Spec) -> Result<Running> {
    let folder = &std::path::absolute(folder).map_err(|e| Error::io(format!("cannot make {}", folder.display()), e))?;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| Error::io(format!("cannot make {}", folder.display()), e))?;
    if Process::of(folder)?.is_some() {
        return Err(Error::invalid(format!("a machine runs in {} already", folder.display())));
    }
    let program = spec.settings.program.clone().unwrap_or_else(|| "qemu-system-x86_64".into());
    let plan = Plan::of(&spec.machine, spec.settings.keep_macs)?;
    let flash = firmware::find(plan.firmware, plan.chipset)?;
    if let Some(flash) = &flash {
        flash.prepare(folder)?;
    }
    let features = features(&program)?;
    let kvm = match spec.settings.accelerator {
        Accelerator::Auto => accelerator::has_kvm(&program),
        Accelerator::Kvm => true,
        Accelerator::Tcg => false,
    };
    let sandbox = features.contains("-sandbox on");
    let parts = Parts { spec, plan: &plan, folder, flash: flash.as_ref(), kvm, sandbox };
    let arguments = parts.arguments()?;
    clean(folder);
    spec.write(&folder.join(SPEC))?;
    let child = spawn(&program, &arguments, folder)?;
    let mut starting = Starting { child: Some(child), folder };
    let mut client = starting.wait()?;
    let process = Process::of(folder)?.ok_or_else(|| starting.died())?;
    if !spec.settings.paused {
        client.execute("cont", &json!({}))?;
    }
    starting.started();
    Ok(Running { folder: folder.clone(), process, spec: spec.clone(), notes: plan.notes })
}

/// Write down in `folder`, which is made if need be, what [`start`] starts there. With `replace` also where there is one that
/// is off. What is other than described.
///
/// # Errors
///
/// `Invalid` when one is there, or it cannot be told to QEMU; `Missing` when UEFI is not installed.
pub fn define(folder: &Path, spec: &Spec, replace: bool) -> Result<Vec<String>> {
    if Process::of(folder)?.is_some() {
        return Err(Error::invalid(format!("the machine in {} runs: shut it down first", folder.display())));
    }
    if folder.join(SPEC).exists() && !replace {
        return Err(Error::invalid(format!("there is a machine in {} already", folder.display())));
    }
    let plan = Plan::of(&spec.machine, spec.settings.keep_macs)?;
    firmware::find(plan.firmware, plan.chipset)?;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| Error::io(format!("cannot make {}", folder.display()), e))?;
    spec.write(&folder.join(SPEC))?;
    Ok(plan.notes)
}

/// What `program` says about its options.
fn features(program: &Path) -> Result<String> {
    let out = Command::new(program).arg("-help").stdin(Stdio::null()).output().map_err(|e| {
        let kind = if e.kind() == std::io::ErrorKind::NotFound { ErrorKind::Missing } else { ErrorKind::Io };
        Error::new(kind, format!("cannot start {}: install QEMU (qemu-system-x86)", program.display())).with_source(e)
    })?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Takes away what an earlier run left that would stand in the way of a new one.
fn clean(folder: &Path) {
    for name in ["qmp.sock", "events.sock", "console.sock", "agent.sock", "vnc.sock", PID_FILE] {
        // What is not there is no matter; what cannot be removed, QEMU tells.
        let _ = fs::remove_file(folder.join(name));
    }
}

fn spawn(program: &Path, arguments: &[String], folder: &Path) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(folder.join(LOG));
    let log = log.map_err(|e| Error::io(format!("cannot write {}", folder.join(LOG).display()), e))?;
    let both = log.try_clone().map_err(|e| Error::io("cannot share a file", e))?;
    let mut command = Command::new(program);
    // A group of its own: what ends this program from a terminal does not end it.
    command.args(arguments).current_dir("/").process_group(0).stdin(Stdio::null()).stdout(log).stderr(both);
    command.spawn().map_err(|e| Error::io(format!("cannot start {}", program.display()), e))
}

/// A QEMU that was started and does not answer yet. It is killed unless it gets so far.
struct Starting<'a> {
    child: Option<Child>,
    folder: &'a Path,
}

impl Starting<'_> {
    /// Its monitor, as soon as it answers.
    fn wait(&mut self) -> Result<Client> {
        let until = Instant::now() + START;
        loop {
            match Client::connect(&self.folder.join("qmp.sock"), START) {
                Ok(client) => return Ok(client),
                Err(e) if e.kind() != ErrorKind::NotFound || Instant::now() > until => return Err(e),
                Err(_) => {}
            }
            if self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
                return Err(self.died());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn died(&self) -> Error {
        let said = fs::read(self.folder.join(LOG)).unwrap_or_default();
        let said = said.get(said.len().saturating_sub(1000)..).unwrap_or_default();
        let said = String::from_utf8_lossy(said);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        Error::new(ErrorKind::Io, format!("QEMU has ended at its start: {last} ({})", self.folder.join(LOG).display()))
    }

    /// It goes on by itself; a thread waits for its end, so that it leaves no zombie behind.
    fn started(mut self) {
        if let Some(mut child) = self.child.take() {
            thread::spawn(move || child.wait());
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
            clean(self.folder);
        }
    }
}

impl Running {
    /// The machine in `folder`; `None` when none runs there.
    ///
    /// # Errors
    ///
    /// When one runs, and what it was started with cannot be read.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        let folder =
            std::path::absolute(folder).map_err(|e| Error::io(format!("cannot find {}", folder.display()), e))?;
        let Some(process) = Process::of(&folder)? else { return Ok(None) };
        let spec = read_spec(&folder)?;
        Ok(Some(Self { folder, process, spec, notes: Vec::new() }))
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its process's number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.process.pid
    }

    /// What it was started with; its disks are where they are now.
    #[must_use]
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Says where its disks are now: also to who starts it again.
    pub(super) fn moved(&mut self, disks: Vec<crate::driver::DiskSource>) -> Result<()> {
        self.spec.disks = disks;
        self.spec.write(&self.folder.join(SPEC))
    }

    /// A connection to its monitor. There is one at a time: use it and drop it.
    ///
    /// # Errors
    ///
    /// `NotFound` when the machine has ended, `Io` when QEMU does not answer.
    pub fn monitor(&self) -> Result<Client> {
        Client::connect(&self.folder.join("qmp.sock"), COMMAND)
    }

    /// A connection to its second monitor, for whoever watches its events.
    ///
    /// # Errors
    ///
    /// As [`monitor`](Self::monitor).
    pub fn events(&self) -> Result<Client> {
        Client::connect(&self.folder.join("events.sock"), COMMAND)
    }

    /// Run one command.
    ///
    /// # Errors
    ///
    /// As [`monitor`](Self::monitor) and [`Client::execute`].
    pub fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        self.monitor()?.execute(command, arguments)
    }

    /// How it is.
    ///
    /// # Errors
    ///
    /// When QEMU does not answer.
    pub fn state(&self) -> Result<State> {
        let status = match self.execute("query-status", &json!({})) {
            Err(_) if self.has_ended(Duration::ZERO) => return Ok(State::Off),
            status => status?,
        };
        if status.get("running").and_then(Value::as_bool) == Some(true) {
            return Ok(State::Running);
        }
        Ok(State::Paused(status.get("status").and_then(Value::as_str).unwrap_or("paused").to_owned()))
    }

    /// What disks it stands still for, and why; `None` when it does not, or QEMU does not say.
    ///
    /// # Errors
    ///
    /// When QEMU does not answer.
    pub fn failing(&self) -> Result<Option<String>> {
        let all = self.execute("query-block", &json!({}))?;
        let text = |disk: &Value, path: &str| disk.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let why = |disk: &Value| {
            let node = text(disk, "/inserted/node-name");
            match text(disk, "/io-status").as_str() {
                "nospace" => Some(format!("there is no room for what {node} writes")),
                "failed" => Some(format!("{node} cannot be read or written")),
                _ => None,
            }
        };
        let found: Vec<_> = all.as_array().into_iter().flatten().filter_map(why).collect();
        Ok((!found.is_empty()).then(|| found.join(", ")))
    }

    /// Let it stand still.
    ///
    /// # Errors
    ///
    /// When QEMU does not answer.
    pub fn pause(&self) -> Result<()> {
        self.execute("stop", &json!({})).map(drop)
    }

    /// Let it go on, also after a disk had failed: what could not be done is then repeated.
    ///
    /// # Errors
    ///
    /// When QEMU does not answer.
    pub fn resume(&self) -> Result<()> {
        self.execute("cont", &json!({})).map(drop)
    }

    /// The agent in its guest.
    ///
    /// # Errors
    ///
    /// `Io` when none answers within `timeout`.
    pub fn agent(&self, timeout: Duration) -> Result<Agent> {
        Agent::connect(&self.folder.join("agent.sock"), timeout)
    }

    /// What its guest says on the serial console, from the beginning.
    #[must_use]
    pub fn console(&self) -> Console {
        Console::of(&self.folder.join(console::LOG))
    }

    /// Whether its process has ended by the time `within` is over.
    #[must_use]
    pub fn has_ended(&self, within: Duration) -> bool {
        self.process.ends(within)
    }

    /// End it: the guest is asked to shut down and may take `grace`; then QEMU is ended, which flushes its disks; then
    /// the process is killed. With no grace the guest is not asked.
    ///
    /// # Errors
    ///
    /// When the process does not end even then.
    pub fn stop(self, grace: Duration) -> Result<Stopped> {
        let stopped = self.end(grace);
        if stopped.is_ok() {
            clean(&self.folder);
        }
        stopped
    }

    /// Ask the guest to shut down; whether it has within `grace`. It runs on otherwise.
    ///
    /// # Errors
    ///
    /// When QEMU does not answer.
    pub fn shut_down(&self, grace: Duration) -> Result<bool> {
        // One that stands still hears nothing.
        let asked = self.resume().and_then(|()| self.execute("system_powerdown", &json!({})));
        if (asked.is_ok() && self.has_ended(grace)) || self.has_ended(Duration::ZERO) {
            clean(&self.folder);
            return Ok(true);
        }
        asked.map(|_| false)
    }

    fn end(&self, grace: Duration) -> Result<Stopped> {
        // Whether it could be asked is no matter: it is ended all the same.
        if !grace.is_zero() && self.shut_down(grace).unwrap_or(false) {
            return Ok(Stopped::ByGuest);
        }
        // QEMU may be gone before its answer is.
        let _ = self.execute("quit", &json!({}));
        if self.has_ended(QUIT) {
            return Ok(Stopped::ByQuit);
        }
        self.kill().map(|()| Stopped::ByKill)
    }

    /// Kill its process.
    ///
    /// # Errors
    ///
    /// When it cannot be killed.
    pub fn kill(&self) -> Result<()> {
        self.process.kill()?;
        if self.has_ended(KILLED) {
            clean(&self.folder);
            return Ok(());
        }
        let (pid, folder) = (self.process.pid, self.folder.display());
        Err(Error::new(
            ErrorKind::Io,
            format!("process {pid} of the machine in {folder} does not end: it waits for a disk"),
        ))
    }
}

/// What the machine in `folder` was started with, or would be started with again.
///
/// # Errors
///
/// `NotFound` when none was started there, `Damaged` when it cannot be understood.
pub fn read_spec(folder: &Path) -> Result<Spec> {
    Spec::read(&folder.join(SPEC))
}
