//! Servers that are measured: started, watched and ended.

use std::fmt;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where a server listens.
pub enum At {
    /// A Unix socket.
    Socket(PathBuf),
    /// A port of 127.0.0.1.
    Port(u16),
}

impl At {
    fn is_there(&self) -> bool {
        match self {
            Self::Socket(path) => path.exists(),
            Self::Port(port) => TcpStream::connect(("127.0.0.1", *port)).is_ok(),
        }
    }

    fn clear(&self) {
        if let Self::Socket(path) = self {
            let _was_there = std::fs::remove_file(path);
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Port(port) => write!(f, "127.0.0.1:{port}"),
        }
    }
}

/// A server; ended when dropped.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub at: At,
}

impl Server {
    /// Start it by a line for the shell, and wait until it listens.
    pub fn start(line: &str, at: At) -> Result<Self> {
        at.clear();
        let child = Command::new("sh").args(["-c", &format!("exec {line} >/dev/null")]).stdin(Stdio::null()).spawn()?;
        let mut server = Self { child, at };
        let start = Instant::now();
        while !server.at.is_there() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{status}: {line}");
            }
            if start.elapsed() > Duration::from_secs(60) {
                bail!("does not listen after a minute: {line}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// Seconds of processor time so far, and the largest resident set in bytes.
    pub fn cost(&self) -> (f64, u64) {
        let read =
            |what: &str| std::fs::read_to_string(format!("/proc/{}/{what}", self.child.id())).unwrap_or_default();
        let stat = read("stat");
        let ticks: u64 = stat
            .rsplit(") ")
            .next()
            .map_or(0, |rest| rest.split(' ').skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum());
        let peak = read("status")
            .lines()
            .find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .unwrap_or(0);
        (ticks as f64 / 100.0, peak << 10)
    }
}

/// How long a server may take for its end.
const PATIENCE: Duration = Duration::from_secs(10);

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let until = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        // tgtd waits for its sessions.
        let _ended = self.child.kill();
        let _status = self.child.wait();
        self.at.clear();
    }
}
