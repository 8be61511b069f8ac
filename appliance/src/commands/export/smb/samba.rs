//! Samba as a process: started, looked after, ended.

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
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};

use super::configuration::{Access, Configuration};

/// How long Samba may take to listen, and to end.
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

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
    pub fn start(
        program: &Path,
        folder: &Path,
        text: &str,
        configuration: &Configuration,
        password: Option<&str>,
    ) -> Result<Self> {
        let cannot = |e| Error::io("cannot write Samba's files", e);
        for place in ["private", "lock", "state", "cache", "pid", "ncalrpc"] {
            fs::create_dir(folder.join(place)).map_err(cannot)?;
        }
        let file = folder.join("smb.conf");
        fs::write(&file, text).map_err(cannot)?;
        if let (Access::User(user), Some(password)) = (&configuration.access, password) {
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
        self.stop_helpers();
    }

    /// End what Samba started for itself and let go of: they leave their numbers in its folder.
    fn stop_helpers(&self) {
        let files = fs::read_dir(self.folder.join("pid")).into_iter().flatten().flatten();
        let numbers = files.filter_map(|file| fs::read_to_string(file.path()).ok()?.trim().parse().ok());
        for pid in numbers.filter_map(Pid::from_raw) {
            // The number may be that of another process by now.
            let ours = |arguments: Vec<u8>| {
                let folder = self.folder.as_os_str().as_encoded_bytes();
                arguments.windows(folder.len()).any(|part| part == folder)
            };
            let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
            if arguments.is_ok_and(ours) {
                // It may just have ended.
                let _gone = kill_process(pid, Signal::TERM);
            }
        }
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
