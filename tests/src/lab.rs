//! A stock Bacula that runs beside the test.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

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
        // Bacula's own paths must stay short.
        let folder = PathBuf::from(format!("/tmp/rvl{}", std::process::id()));
        let lab = Self(folder);
        lab.run(&["up", lab.0.to_str()?]);
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
        let out = self.run(&["backup", job, level, "--nowait"]);
        let id = out.split_whitespace().next_back().and_then(|id| id.parse().ok()).expect("a job number");
        self.run(&["wait", &u64::to_string(&id)]);
        id
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
