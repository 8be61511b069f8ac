//! Processes by number, and what keeps them from being confused.
//!
//! A process's number is used again after its end. QEMU writes its own into a file whose path is also among its
//! arguments: a process with that argument is the one, and any other of the same number is not. It is held by a
//! descriptor (pidfd) before it is looked at, so that what was looked at is what is signalled.

use std::{
    fs,
    io::Read,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::{Error, Result};

/// The file with the process's number, in the machine's folder.
pub const PID_FILE: &str = "pid";
/// The longest command line that is looked at, in bytes.
const LINE_MAX: u64 = 4 << 20;

/// A QEMU that runs.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    handle: OwnedFd,
}

impl Process {
    /// The QEMU of the machine in `folder`; `None` when none runs.
    ///
    /// # Errors
    ///
    /// When this host cannot tell.
    pub fn of(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join(PID_FILE);
        let Ok(text) = fs::read_to_string(&file) else { return Ok(None) };
        let Some(pid) = text.trim().parse().ok().filter(|pid| *pid > 0) else { return Ok(None) };
        Self::with_argument(pid, &file)
    }

    /// Process `pid`, if it has an argument `file`.
    fn with_argument(pid: i32, file: &Path) -> Result<Option<Self>> {
        let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
        let handle = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(Error::io(format!("cannot look at process {pid}"), e.into())),
        };
        let mut line = Vec::new();
        // One that has ended has no command line any more.
        let opened = fs::File::open(format!("/proc/{pid}/cmdline"));
        if opened.is_err() || opened.is_ok_and(|f| f.take(LINE_MAX).read_to_end(&mut line).is_err()) {
            return Ok(None);
        }
        let is_it = line.split(|b| *b == 0).any(|argument| argument == file.as_os_str().as_bytes());
        Ok(is_it.then_some(Self { pid: u32::try_from(pid).unwrap_or(0), handle }))
    }

    /// End it at once.
    ///
    /// # Errors
    ///
    /// When it may not be ended.
    pub fn kill(&self) -> Result<()> {
        match pidfd_send_signal(&self.handle, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::io(format!("cannot end process {}", self.pid), e.into())),
        }
    }

    /// Whether it has ended by the time `within` is over.
    #[must_use]
    pub fn ends(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            // A pidfd is readable when its process has ended, waited for or not.
            match poll(&mut [PollFd::new(&self.handle, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(_) if Instant::now() < until => {}
                Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_number_that_was_used_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(PID_FILE);
        assert!(Process::of(folder.path()).expect("nothing").is_none());
        // A shell that stands for another process of the same number, then for the one that was started here.
        let sleeper = |argument: &Path| {
            let mut command = Command::new("sh");
            command.arg("-c").arg("read line").arg("sh").arg(argument).stdin(Stdio::piped());
            command.spawn().expect("a shell")
        };
        for (argument, is_it) in [(Path::new("/elsewhere/pid"), false), (&file, true)] {
            let mut child = sleeper(argument);
            fs::write(&file, format!("{}\n", child.id())).expect("a file");
            let mut found = None;
            for _ in 0..100 {
                // Until the shell runs, the child is still a copy of this test.
                found = Process::of(folder.path()).expect("looking");
                if found.is_some() == is_it {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(found.is_some(), is_it);
            if let Some(process) = found {
                assert!(!process.ends(Duration::from_millis(10)));
                process.kill().expect("a signal");
                assert!(process.ends(Duration::from_secs(10)));
            }
            let _ = child.kill();
            child.wait().expect("an end");
            assert!(Process::of(folder.path()).expect("looking").is_none());
        }
        for text in ["", "-5", "0", "99999999999", "x"] {
            fs::write(&file, text).expect("a file");
            assert!(Process::of(folder.path()).expect("looking").is_none(), "{text}");
        }
    }
}
