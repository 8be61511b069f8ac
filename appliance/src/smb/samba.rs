//! Samba as a process: started, looked after, ended, also one that a killed program has left.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use blockdev::{Error, ErrorKind, Result};
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal, test_kill_process_group,
};

use super::configuration::{Access, Configuration, Login};

/// How long Samba may take to listen, and to end.
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

/// Its configuration, in its folder.
const CONFIGURATION: &str = "smb.conf";

/// Where Samba's programs are when the search path is an ordinary user's.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/local/samba/sbin"];

/// The program `name`.
///
/// # Errors
///
/// When it is not installed.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from));
    let mut programs = folders.map(|folder| folder.join(name));
    programs.find(|program| program.is_file()).ok_or_else(|| {
        Error::not_found(format!("{name} is not installed; it is part of Samba (Debian: apt install samba)"))
    })
}

/// Whether Samba has the filesystem module `name`.
pub fn has_module(smbd: &Path, name: &str) -> bool {
    let Ok(built) = Command::new(smbd).arg("-b").stdin(Stdio::null()).output() else { return false };
    let text = String::from_utf8_lossy(&built.stdout);
    let folder = text.lines().find_map(|line| line.trim().strip_prefix("MODULESDIR:"));
    folder.is_some_and(|folder| Path::new(folder.trim()).join(format!("vfs/{name}.so")).exists())
}

/// A running Samba. When it is dropped, it is ended.
pub struct Samba {
    child: Child,
    folder: PathBuf,
}

impl Samba {
    /// Start Samba with a configuration and files of its own in `folder`, and wait until it listens.
    ///
    /// # Errors
    ///
    /// When it does not start, or does not take the user.
    pub fn start(program: &Path, folder: &Path, text: &str, configuration: &Configuration) -> Result<Self> {
        let cannot = |e| Error::io("cannot write Samba's files", e);
        for place in ["private", "lock", "state", "cache", "pid", "ncalrpc"] {
            fs::create_dir(folder.join(place)).map_err(cannot)?;
        }
        let file = folder.join(CONFIGURATION);
        fs::write(&file, text).map_err(cannot)?;
        if let Access::User(Login { user, password }) = &configuration.access {
            add_user(&file, user, password)?;
        }
        let mut command = Command::new(program);
        command.args(["--foreground", "--no-process-group", "--configfile"]).arg(&file);
        // A process group of its own: signals of the terminal are for this program, which ends Samba in good order. And
        // a pipe that nobody writes to: when this program is killed Samba sees its end, and ends, too.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|e| Error::io("cannot start smbd", e))?;
        let mut samba = Self { child, folder: folder.to_owned() };
        let until = Instant::now() + START;
        while !listens(configuration.address) {
            samba.check()?;
            if Instant::now() > until {
                return Err(samba.failure("smbd does not listen"));
            }
            thread::sleep(TICK);
        }
        Ok(samba)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(&format!("smbd ended by itself ({status})"))),
            Err(e) => Err(Error::io("cannot look after smbd", e)),
        }
    }

    fn failure(&self, what: &str) -> Error {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        // Lines that begin with a bracket say when and where in Samba.
        let words = log.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with('['));
        Error::new(ErrorKind::Io, format!("{what}; its last words: {}", words.unwrap_or("none")))
    }

    /// End it: its clients are cut off, for there is nothing they could lose.
    pub fn stop(&mut self) {
        self.stop_group();
        // What it started for itself and let go of.
        let _ends_by_itself = end_all(&self.folder);
    }

    fn stop_group(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()) else { return };
        let Some(group) = Pid::from_raw(pid) else { return };
        let gone = |child: &mut Child| {
            // The first of the group has to be waited for, or the group is never gone.
            let _ended = child.try_wait();
            test_kill_process_group(group).is_err()
        };
        for signal in [Signal::TERM, Signal::KILL] {
            // Fails only when nobody is left.
            let _nobody_left = kill_process_group(group, signal);
            let until = Instant::now() + STOP;
            while !gone(&mut self.child) {
                if Instant::now() > until {
                    break;
                }
                thread::sleep(TICK);
            }
            if gone(&mut self.child) {
                return;
            }
        }
    }
}

impl Drop for Samba {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ends all of Samba that has its files in `folder`, whoever started it.
///
/// # Errors
///
/// When a process does not end.
pub fn end_all(folder: &Path) -> Result<()> {
    let file = folder.join(CONFIGURATION);
    for signal in [Signal::TERM, Signal::KILL] {
        let until = Instant::now() + STOP;
        while signal_all(&file, signal)? > 0 {
            if Instant::now() > until {
                break;
            }
            thread::sleep(TICK);
        }
    }
    match signal_all(&file, Signal::KILL)? {
        0 => Ok(()),
        left => Err(Error::new(ErrorKind::Io, format!("{left} processes of Samba do not end ({})", file.display()))),
    }
}

/// Sends a signal to the processes that were told the configuration `file`; how many there are.
fn signal_all(file: &Path, signal: Signal) -> Result<usize> {
    let processes = fs::read_dir("/proc").map_err(|e| Error::io("cannot look for processes of Samba", e))?;
    let mut found = 0;
    for entry in processes.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else { continue };
        // Held before it is looked at: its number may be another's in a moment.
        let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // One that has ended has no arguments any more.
        if fs::read(entry.path().join("cmdline")).is_ok_and(|line| is_told(&line, file)) {
            found += 1;
            let _gone = pidfd_send_signal(&held, signal);
        }
    }
    Ok(found)
}

/// Whether a process with these arguments was told the configuration `file`, and does not just look at it.
fn is_told(line: &[u8], file: &Path) -> bool {
    let file = file.as_os_str().as_encoded_bytes();
    let arguments: Vec<_> = line.split(|b| *b == 0).collect();
    let pair = |pair: &[&[u8]]| matches!(pair, [b"--configfile" | b"-c", told] if *told == file);
    arguments.windows(2).any(pair) || arguments.iter().any(|a| a.strip_prefix(b"--configfile=") == Some(file))
}

fn listens(address: SocketAddr) -> bool {
    let address = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => SocketAddr::from(([127, 0, 0, 1], address.port())),
        ip if ip.is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], address.port())),
        _ => address,
    };
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// Give a user of this machine a password for the share.
fn add_user(configuration: &Path, user: &str, password: &str) -> Result<()> {
    let arguments = [OsStr::new("-c"), configuration.as_os_str(), "-s".as_ref(), "-a".as_ref(), user.as_ref()];
    let mut command = Command::new(find("smbpasswd")?);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let cannot = |e| Error::io("cannot run smbpasswd", e);
    let mut child = command.spawn().map_err(cannot)?;
    if let Some(mut input) = child.stdin.take() {
        // When it does not listen it says why.
        let _ = input.write_all(format!("{password}\n{password}\n").as_bytes());
    }
    let output = child.wait_with_output().map_err(cannot)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
    Err(Error::invalid(format!("Samba does not take the user {user}, who has to be one of this machine: {words}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_configuration_it_is() {
        let file = Path::new("/state/web01-1/smb/smb.conf");
        for (line, is_it) in [
            ("smbd\0--foreground\0--configfile\0/state/web01-1/smb/smb.conf\0", true),
            ("samba-dcerpcd\0--configfile=/state/web01-1/smb/smb.conf\0--np-helper\0", true),
            ("smbpasswd\0-c\0/state/web01-1/smb/smb.conf\0-s\0", true),
            ("less\0/state/web01-1/smb/smb.conf\0", false),
            ("smbd\0--configfile\0/state/web01-11/smb/smb.conf\0", false),
            ("smbd\0--configfile=/other/state/web01-1/smb/smb.conf\0", false),
            ("", false),
        ] {
            assert_eq!(is_told(line.as_bytes(), file), is_it, "{line:?}");
        }
    }
}
