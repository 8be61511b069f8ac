//! A stock Bacula that runs beside the test.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::is_root;

/// A lab, and its end.
#[derive(Debug)]
pub struct Lab(pub PathBuf);

impl Lab {
    /// A running Bacula 9.6, or `None` with a line that says why not.
    #[must_use]
    pub fn up() -> Option<Self> {
        if !is_root() || !Path::new("/usr/sbin/bacula-sd").exists() {
            println!("skipped: stock Bacula is not installed (cargo xtask setup), or this is not root");
            return None;
        }
        Self::started("9")
    }

    /// A running Bacula 15, or `None` with a line that says why not: it is unpacked by hand only, because that takes much.
    #[must_use]
    pub fn up_15() -> Option<Self> {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let cache = folder("BACULA_LAB_CACHE").or_else(|| {
            let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
            Some(caches.join("bacula-lab"))
        });
        if !is_root() || !cache.is_some_and(|cache| cache.join("r15/.complete").exists()) {
            println!("skipped: no Bacula 15 (tests/lab/bacula-lab.sh install --release 15), or this is not root");
            return None;
        }
        Self::started("15")
    }

    fn started(release: &str) -> Option<Self> {
        // Bacula's own paths must stay short.
        let folder = PathBuf::from(format!("/tmp/rvl{}", std::process::id()));
        let lab = Self(folder);
        lab.run(&["up", lab.0.to_str()?, "--release", release]);
        Some(lab)
    }

    /// Runs the lab's script and returns what it says.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn run(&self, args: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/bacula-lab.sh");
        let mut command = Command::new("bash");
        command.arg(script).args(args).env("BACULA_LAB_DIR", &self.0).env("BACULA_LAB_QUIET", "1").stdin(Stdio::null());
        let out = command.output().expect("the lab script");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text
    }

    /// Runs a job; its number.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[must_use]
    pub fn backup(&self, job: &str, level: &str) -> u64 {
        let out = self.run(&["backup", job, level]);
        out.split_whitespace().next_back().and_then(|id| id.parse().ok()).expect("a job number")
    }

    /// Runs a job, whatever comes of it; its number.
    ///
    /// # Panics
    ///
    /// When it cannot be run at all.
    #[must_use]
    pub fn backup_any(&self, job: &str, level: &str) -> u64 {
        let id = self.begin(job, level);
        self.wait(id);
        id
    }

    /// Begins a job; its number.
    ///
    /// # Panics
    ///
    /// When it cannot be run at all.
    #[must_use]
    pub fn begin(&self, job: &str, level: &str) -> u64 {
        let out = self.run(&["backup", job, level, "--nowait"]);
        out.split_whitespace().next_back().and_then(|id| id.parse().ok()).expect("a job number")
    }

    /// Waits until a job has ended, whatever comes of it.
    ///
    /// # Panics
    ///
    /// When the catalog does not answer.
    pub fn wait(&self, job: u64) {
        self.run(&["wait", &job.to_string()]);
    }

    /// Kills the File daemon, as a crash would; `run(&["start"])` starts it again.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn kill_file_daemon(&self) {
        let file = self.0.join("run/fd.pid");
        let pid = std::fs::read_to_string(&file).expect("its process's number");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a number");
        kill_process(pid, Signal::KILL).expect("a signal");
        std::fs::remove_file(file).expect("removing");
    }

    /// Where the volumes of a job are.
    #[must_use]
    pub fn volumes(&self, job: &str) -> PathBuf {
        self.0.join("volumes").join(job)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}
