//! A FUSE filesystem served by a child process: Revenant's, or a peer's it is measured against.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cmd;

/// How long a server may take to appear; beyond that it is broken, not slow.
const START_MAX: Duration = Duration::from_secs(60);

/// A mounted FUSE filesystem; unmounted when dropped.
pub struct Mounted {
    child: Child,
    mountpoint: PathBuf,
}

impl Mounted {
    /// Starts `line`, which serves `mountpoint` in the foreground, and waits until it is mounted.
    pub fn start(line: &str, mountpoint: &Path) -> Result<Self> {
        std::fs::create_dir_all(mountpoint)?;
        let child = Command::new("sh").args(["-c", &format!("exec {line}")]).stdin(Stdio::null()).spawn()?;
        let mut mounted = Self { child, mountpoint: mountpoint.canonicalize()? };
        let start = Instant::now();
        while !is_mounted(&mounted.mountpoint)? {
            if let Some(status) = mounted.child.try_wait()? {
                bail!("{status}: {line}");
            }
            if start.elapsed() > START_MAX {
                bail!("not mounted after {START_MAX:?}: {line}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(mounted)
    }

    /// Asks the server to stop, as a service manager would, and waits for it.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > START_MAX {
                bail!("the server of {} ignores SIGTERM", self.mountpoint.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if is_mounted(&self.mountpoint)? {
            bail!("{} is still mounted after its server ended", self.mountpoint.display());
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if is_mounted(&self.mountpoint).unwrap_or(false) {
            let mut unmount = cmd::command("fusermount3", ["-u", "-z"]);
            let _ = cmd::run_quietly(unmount.arg(&self.mountpoint));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Whether something is mounted exactly there.
fn is_mounted(mountpoint: &Path) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    // Blanks and the like are octal there; mountpoints of this program have none.
    let wanted = mountpoint.to_string_lossy();
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(&wanted)))
}
