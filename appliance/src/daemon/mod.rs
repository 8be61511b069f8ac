//! The daemon: one process for a state folder, which keeps its sessions alive.
//!
//! It may be killed at any moment. The next one, in the same folder, goes on with all sessions at the same addresses.

pub mod client;
mod control;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use blockdev::{Error, ErrorKind, Result};

use crate::recovery::{sessions::Sessions, store::Store};

/// How often sessions are looked after.
const TICK: Duration = Duration::from_secs(1);

/// The socket of commands, in the state folder.
const CONTROL: &str = "control.sock";

/// Where the state is if nobody says.
pub fn default_folder() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/revenant".into();
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let state = std::env::var_os("XDG_STATE_HOME").map_or_else(|| home.join(".local/state"), PathBuf::from);
    state.join("revenant")
}

/// Runs the daemon until `end`; with `idle`, until there has been no session for as long. `ready` is called with the folder
/// once it takes commands.
///
/// # Errors
///
/// When another one has the folder, or it cannot be used.
pub fn run(folder: &Path, idle: Option<Duration>, end: &AtomicBool, ready: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    let store = Store::open(folder)?;
    let folder = store.folder().to_owned();
    let _alone = lock(&folder)?;
    let control = control::Control::bind(&folder.join(CONTROL))?;
    let sessions = Arc::new(Sessions::new(store));
    control.serve(&sessions)?;
    ready(&folder)?;
    let mut busy = Instant::now();
    while !end.load(Ordering::Relaxed) {
        sessions.tend();
        if !sessions.is_idle() || control.is_busy() {
            busy = Instant::now();
        } else if idle.is_some_and(|idle| busy.elapsed() > idle) {
            break;
        }
        let slept = Instant::now();
        while slept.elapsed() < TICK && !end.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
    }
    control.close();
    sessions.close();
    Ok(())
}

/// The lock of a state folder, held as long as the file is open.
fn lock(folder: &Path) -> Result<File> {
    use rustix::fs::{FlockOperation, flock};
    let path = folder.join("daemon.lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| Error::io(format!("cannot open {}", path.display()), e))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::new(ErrorKind::Locked, format!("another revenant serves {} already", folder.display())))?;
    Ok(file)
}
