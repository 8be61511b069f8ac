//! The daemon: one process for a state folder, which keeps its sessions alive.
//!
//! It may be killed at any moment. The next one, in the same folder, goes on with all sessions at the same addresses, and
//! takes back the backups that were being read. `tree`: what it mounts.

pub mod client;
mod control;
mod tree;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use blockdev::{Error, ErrorKind, Result};

use crate::{
    backup::runs::Backups,
    cli::Sources,
    config,
    recovery::{sessions::Sessions, store::Store},
    restore::Restores,
};

/// How often sessions are looked after.
const TICK: Duration = Duration::from_secs(1);
/// How often the backups that are running are looked at.
const WATCH: Duration = Duration::from_millis(250);

/// The socket of commands, in the state folder.
const CONTROL: &str = "control.sock";

/// Where the state is: as somebody says, or as it is configured, or in its usual place.
///
/// # Errors
///
/// When the configuration file cannot be read.
pub fn folder(sources: &Sources, said: Option<&Path>) -> Result<PathBuf> {
    match said {
        Some(folder) => Ok(folder.to_owned()),
        None => Ok(config::state(sources)?.unwrap_or_else(default_folder)),
    }
}

fn default_folder() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/revenant".into();
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let state = std::env::var_os("XDG_STATE_HOME").map_or_else(|| home.join(".local/state"), PathBuf::from);
    state.join("revenant")
}

/// What the daemon is to do.
pub struct Options<'a> {
    /// The state folder.
    pub folder: &'a Path,
    /// It ends when there has been nothing to do for so long.
    pub idle: Option<Duration>,
    /// Where the tree is mounted.
    pub mount: Option<&'a Path>,
    /// What is in the tree beside backups of running machines, and the configuration.
    pub sources: &'a Sources,
}

/// Runs the daemon until `end`. `ready` is called with the folder once it takes commands.
///
/// # Errors
///
/// When another one has the folder, or it cannot be used.
pub fn run(options: &Options<'_>, end: &AtomicBool, ready: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    let store = Store::open(options.folder)?;
    let folder = store.folder().to_owned();
    let _alone = lock(&folder)?;
    let backups = Arc::new(Backups::open(&folder, options.sources)?);
    // What a crash has left is taken back before anybody reads it.
    backups.tend();
    let sessions = Arc::new(Sessions::new(store));
    let restores = Restores::open(&folder, options.sources, &sessions)?;
    let mounted = options.mount.map(|point| tree::mount(point, options.sources, &backups, &restores)).transpose()?;
    let control = control::Control::bind(&folder.join(CONTROL))?;
    let answering = control::Answering {
        sessions: Arc::clone(&sessions),
        backups: Arc::clone(&backups),
        restores: Arc::clone(&restores),
    };
    control.serve(&Arc::new(answering))?;
    let watching = watch(&backups)?;
    ready(&folder)?;
    let mut busy = Instant::now();
    while !end.load(Ordering::Relaxed) {
        sessions.tend();
        backups.tend();
        restores.tend();
        if !sessions.is_idle() || !backups.is_idle() || !restores.is_idle() || control.is_busy() {
            busy = Instant::now();
        } else if options.idle.is_some_and(|idle| busy.elapsed() > idle) {
            break;
        }
        let slept = Instant::now();
        while slept.elapsed() < TICK && !end.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
    }
    drop(watching);
    control.close();
    sessions.close();
    backups.close();
    restores.close();
    mounted.map_or(Ok(()), tree::Mounted::end)
}

/// Watches the jobs that are running until what this returns is dropped. In a thread of its own: a hypervisor that does not
/// answer holds up whoever looks after what was left there.
fn watch(backups: &Arc<Backups>) -> Result<Sender<()>> {
    let (stop, stopped) = mpsc::channel();
    let backups = Arc::clone(backups);
    let watch = move || {
        while matches!(stopped.recv_timeout(WATCH), Err(RecvTimeoutError::Timeout)) {
            backups.watch();
        }
    };
    let thread = thread::Builder::new().name("backup-watch".into()).spawn(watch);
    thread.map(|_| stop).map_err(|e| Error::io("cannot watch backups", e))
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
