//! A libvirt for tests: its daemons, started without systemd and ended again.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process, test_kill_process},
};

use crate::{
    installed, is_root,
    program::{Run, run_within},
    temp,
};

/// The libvirt that is started.
pub const URI: &str = "qemu:///system";

const LIMIT: Duration = Duration::from_secs(60);

/// What keeps tests apart: a host has one libvirt.
const LOCK: &str = "/tmp/revenant-test-libvirt.lock";

/// Sole use of this host's libvirt, whether it runs or not.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held as long as this is there")] File);

impl Turn {
    /// Waits for it; `None`, with a line that says why, where libvirt is not installed.
    ///
    /// # Panics
    ///
    /// When it cannot be had.
    #[must_use]
    pub fn wait(test: &str) -> Option<Self> {
        let programs = ["virsh", "libvirtd", "virtlogd", "qemu-system-x86_64", "qemu-io"];
        if !is_root() || !installed(test, &programs) {
            eprintln!("SKIPPED: {test}: needs root, libvirt-daemon-system and libvirt-clients");
            return None;
        }
        let file = File::create(LOCK).expect("a lock");
        flock(&file, FlockOperation::LockExclusive).expect("the lock");
        Some(Self(file))
    }
}

/// A running libvirt, and its end if it was started here.
#[derive(Debug)]
pub struct Libvirt {
    started: Option<tempfile::TempDir>,
    /// The domains that were there.
    before: Vec<String>,
    _turn: Turn,
}

impl Libvirt {
    /// Starts it, unless one runs.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn up(turn: Turn) -> Self {
        if virsh(&["list"]).code() == Some(0) {
            return Self { started: None, before: domains(), _turn: turn };
        }
        let folder = temp();
        // A domain's console goes through the first one.
        for daemon in ["virtlogd", "libvirtd"] {
            let mut command = Command::new(format!("/usr/sbin/{daemon}"));
            command.args(["--daemon", "--pid-file"]).arg(folder.path().join(daemon)).stdin(Stdio::null());
            let _ = run_within(&mut command, LIMIT).good();
        }
        let mut libvirt = Self { started: Some(folder), before: Vec::new(), _turn: turn };
        let begun = Instant::now();
        while virsh(&["list"]).code() != Some(0) {
            assert!(begun.elapsed() < LIMIT, "libvirt does not answer: {}", virsh(&["list"]).stderr);
            thread::sleep(Duration::from_millis(50));
        }
        libvirt.before = domains();
        libvirt
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // Those of a test that failed would be in the way of the next one.
        for domain in domains().iter().filter(|domain| !self.before.contains(domain)) {
            let _ = virsh(&["destroy", domain]);
            let _ = virsh(&["undefine", domain, "--nvram"]);
        }
        let Some(folder) = &self.started else { return };
        for daemon in ["libvirtd", "virtlogd"] {
            end(&folder.path().join(daemon));
        }
    }
}

fn end(pid_file: &Path) {
    let pid = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    let _ = kill_process(pid, Signal::TERM);
    let begun = Instant::now();
    while test_kill_process(pid).is_ok() && !is_zombie(pid) && begun.elapsed() < LIMIT {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether it has ended, and its parent has not looked.
fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// The names of all domains.
#[must_use]
pub fn domains() -> Vec<String> {
    virsh(&["list", "--all", "--name"]).text().lines().map(str::to_owned).filter(|name| !name.is_empty()).collect()
}

/// libvirt's own client.
#[must_use]
pub fn virsh(arguments: &[&str]) -> Run {
    run_within(Command::new("virsh").args(["--quiet", "--connect", URI]).args(arguments).env("LC_ALL", "C"), LIMIT)
}

/// Runs a command of qemu-io in a domain's QEMU, as if its guest wrote. What it says goes to the domain's log, not here:
/// what came of it has to be read elsewhere.
///
/// # Panics
///
/// When QEMU has no such device.
pub fn as_guest(domain: &str, device: &str, command: &str) {
    let line = format!("qemu-io -d {device} \"{command}\"");
    let said = virsh(&["qemu-monitor-command", domain, "--hmp", &line]).good().text();
    assert!(!said.contains("Error") && !said.contains("not found"), "{line}: {said}");
}
