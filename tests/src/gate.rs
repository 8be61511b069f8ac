//! A daemon that shows running machines to a stock File daemon, and Bacula's jobs that read them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    lab::Lab,
    live_vm::LiveVm,
    mounted::wait,
    program::{self, Run, run_within},
    served::Served,
    temp,
};

/// The daemon, its state, and where it mounts the tree.
#[derive(Debug)]
pub struct Gate {
    state: tempfile::TempDir,
    mount: tempfile::TempDir,
    daemon: Option<Served>,
    /// `HYPERVISOR/MACHINE`.
    machine: String,
}

impl Gate {
    /// One for the machine `web01`, which is `vm`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn new(vm: &LiveVm) -> Self {
        let machine = format!("[[qemu]]\nname = \"web01\"\nqmp = {:?}\ntags = [\"gold\"]\n", vm.qmp());
        Self::with("qemu/web01", &machine)
    }

    /// One for `machine`, with these hypervisors in its configuration.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn with(machine: &str, hypervisors: &str) -> Self {
        Self::in_state(temp(), machine, hypervisors)
    }

    /// The same, with its state and configuration in `state`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn in_state(state: tempfile::TempDir, machine: &str, hypervisors: &str) -> Self {
        let mut gate = Self { state, mount: temp(), daemon: None, machine: machine.to_owned() };
        let (state, mount) = (gate.state.path().join("s"), gate.mount.path());
        let text = format!("state = {state:?}\nmount = {mount:?}\n{hypervisors}");
        fs::write(gate.config(), text).expect("the configuration");
        gate.start();
        gate
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.state.path().join("revenant.toml")
    }

    /// Starts the daemon.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start(&mut self) {
        let mut command = Command::new(program::path());
        command.args(["serve", "--json", "--config"]).arg(self.config());
        self.daemon = Some(Served::start(&mut command));
        wait("the mounted tree", || self.mount.path().join("backup").is_dir());
    }

    /// Kills the daemon, as a crash would.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn kill(&mut self) {
        self.daemon.take().expect("a daemon").end(Signal::KILL);
    }

    /// Sends the daemon a signal.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.daemon.as_ref().expect("a daemon").child), signal).expect("a signal");
    }

    /// The command by which somebody else kills the daemon, as a crash would.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn kill_command(&self) -> String {
        format!("kill -9 {}", self.daemon.as_ref().expect("a daemon").child.id())
    }

    /// Starts the daemon again that was killed.
    ///
    /// # Panics
    ///
    /// When it does not start, or was not killed.
    pub fn restart(&mut self) {
        let _ended = self.daemon.take().expect("a daemon").wait();
        self.start();
    }

    /// The folder of the machine.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.mount.path().join("backup").join(&self.machine)
    }

    /// The names of the files in it, in their order.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).expect("the machine's folder");
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("text")).collect()
    }

    /// What `backup status` tells of `machine`; nothing where it knows none.
    ///
    /// # Panics
    ///
    /// When the daemon does not answer.
    #[must_use]
    pub fn machine(&self, machine: &str) -> Value {
        let all = self.run(&["status", "--json"]).json();
        all.as_array().into_iter().flatten().find(|m| m["machine"] == machine).cloned().unwrap_or_default()
    }

    /// Bytes that the running job of the machine was given.
    ///
    /// # Panics
    ///
    /// When the daemon does not answer.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.machine(&self.machine)["running"]["delivered"].as_u64().unwrap_or(0)
    }

    /// Whether nothing is left of any job of the machine.
    ///
    /// # Panics
    ///
    /// When the daemon does not answer.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.machine(&self.machine)["running"].is_null()
    }

    /// What the daemon has said so far.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn said(&self) -> String {
        self.daemon.as_ref().expect("a daemon").said()
    }

    /// The daemon's folder of the machine's files.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.state.path().join("s/backup").join(&self.machine)
    }

    /// Where the tree is mounted.
    #[must_use]
    pub fn mount(&self) -> &Path {
        self.mount.path()
    }

    /// Runs `revenant backup` with `words`.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Run {
        self.bare(&[&["backup"], words].concat())
    }

    /// Runs `revenant` with `words`.
    #[must_use]
    pub fn bare(&self, words: &[&str]) -> Run {
        let mut command = program::bare(words);
        command.env_remove("REVENANT_CONFIG").arg("--config").arg(self.config());
        run_within(&mut command, std::time::Duration::from_secs(60))
    }

    /// The job `name` of `lab`, which backs the machine up; `before` is run between begin and the job.
    ///
    /// # Panics
    ///
    /// When Bacula does not take it.
    pub fn define(&self, lab: &Lab, name: &str, options: &[&str], before: &[&str]) {
        let program = self.program();
        let begin = format!("{program} backup begin qemu/web01 --level %l --job %j --parent '%S'");
        let end = format!("{program} backup end qemu/web01 --job %j --status '%e'");
        let mut scripts = vec![script("Before", "", &begin)];
        scripts.extend(before.iter().map(|command| script("Before", "", command)));
        scripts.push(after(&end));
        define(lab, name, self.folder().to_str().expect("text"), options, &scripts);
    }

    /// The job `name` of `lab`, which backs up all machines that have the tag `gold`.
    ///
    /// # Panics
    ///
    /// When Bacula does not take it.
    pub fn define_gold(&self, lab: &Lab, name: &str) {
        let program = self.program();
        let list = format!(r"\\|{program} backup list --tag gold --begin --level %l --job %j --parent '%S'");
        let end = format!("{program} backup end --job %j --status '%e'");
        define(lab, name, &list, &["--accurate"], &[after(&end)]);
    }

    /// The program, as the File daemon calls it.
    fn program(&self) -> String {
        format!("{} --config {}", program::path().display(), self.config().display())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        drop(self.daemon.take());
        let _ = Command::new("umount").arg("-l").arg(self.mount.path()).stderr(std::process::Stdio::null()).status();
    }
}

fn script(when: &str, more: &str, command: &str) -> String {
    format!(
        "RunScript {{ RunsWhen = {when}; RunsOnClient = yes; {more}FailJobOnError = yes; Command = \"{command}\" }}"
    )
}

fn after(command: &str) -> String {
    script("After", "RunsOnSuccess = yes; RunsOnFailure = yes; ", command)
}

fn define(lab: &Lab, name: &str, path: &str, options: &[&str], scripts: &[String]) {
    let mut args = vec!["define", name, "--path", path, "--sparse", "--signature", "SHA1"];
    args.extend(options);
    for script in scripts {
        args.extend(["--job-option", script]);
    }
    lab.run(&args);
}

/// Everything that Bacula's log has of a job.
///
/// # Panics
///
/// When the catalog does not answer.
#[must_use]
pub fn log_of(lab: &Lab, job: u64) -> String {
    lab.run(&["sql", &format!("SELECT LogText FROM Log WHERE JobId={job}")])
}

/// The bytes of a disk that stock software makes of the newest file of `disk` in `folder`.
///
/// # Panics
///
/// When it cannot.
#[must_use]
pub fn by_qemu_img(folder: &Path, file: &str) -> Vec<u8> {
    let raw = temp();
    let out = raw.path().join("raw");
    let mut done = Command::new("qemu-img");
    done.args(["convert", "-f", "qcow2", "-O", "raw", file]).arg(&out).current_dir(folder);
    let done = done.output().expect("qemu-img");
    assert!(done.status.success(), "{file}: {}", String::from_utf8_lossy(&done.stderr));
    fs::read(out).expect("the disk")
}
