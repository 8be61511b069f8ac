//! The life of a mount: from its first request to a clean end, also when it is busy.
//!
//! Asked to unmount, a mount that nobody uses goes at once. One that is in use is taken out of the tree at once
//! (nobody new can enter) and goes on serving what is open for a grace time; then, or when asked again, it is ended
//! and whoever still reads gets an error.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use blockdev::{Error, Result};
use fuser::{Session, SessionUnmounter};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::{MAX_READ, MountOptions, door::Door};

/// Mounts on top of each other that are taken away.
const MOUNTS_MAX: usize = 64;

/// A mounted tree. Dropping it unmounts.
pub struct Mount {
    unmounter: Unmounter,
}

/// Unmounts from any thread, also one that handles signals.
#[derive(Clone)]
pub struct Unmounter {
    shared: Arc<Shared>,
}

/// What became of a mount that was to be unmounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// It is gone.
    Clean,
    /// It was busy: it left the tree and serves what is still open for the grace time.
    Detached,
}

struct Shared {
    mountpoint: PathBuf,
    /// The connection's number in `/sys/fs/fuse/connections`.
    device: Option<(u32, u32)>,
    log: Arc<dyn Fn(&str) + Send + Sync>,
    grace: Duration,
    unmounter: Mutex<SessionUnmounter>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ended: Option<io::Result<()>>,
    /// Since when it is out of the tree; what is under way then gets the grace time.
    unmounted: Option<Instant>,
    aborted: bool,
}

/// Serve `session` in threads of its own.
pub(super) fn start(mut session: Session<Door>, mountpoint: PathBuf, options: &MountOptions) -> Result<Mount> {
    let device = device_of(&mountpoint);
    let shared = Arc::new(Shared {
        mountpoint,
        device,
        log: options.log.clone(),
        grace: options.detach_grace,
        unmounter: Mutex::new(session.unmount_callable()),
        state: Mutex::default(),
        changed: Condvar::new(),
    });
    let served = shared.clone();
    thread::Builder::new()
        .name("fuse-session".into())
        .spawn(move || {
            let result = session.run();
            served.state.lock().ended = Some(result);
            served.changed.notify_all();
        })
        .map_err(|e| Error::io("cannot start a thread to serve the mount", e))?;
    if let Some(device) = device {
        enlarge_read_ahead(device);
    }
    Ok(Mount { unmounter: Unmounter { shared } })
}

impl Mount {
    /// Wait until it is unmounted, by [`Unmounter::unmount`] or by anybody else.
    ///
    /// # Errors
    ///
    /// When the connection to the kernel failed.
    pub fn wait(self) -> Result<()> {
        let shared = &self.unmounter.shared;
        let mut state = shared.state.lock();
        loop {
            if let Some(ended) = state.ended.take() {
                // Kept, so that nobody tries to unmount what is gone.
                state.ended = Some(Ok(()));
                let shown = shared.mountpoint.display();
                // That is how the kernel may tell of the end of a mount which was detached while it was in use.
                let is_end = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionAborted && state.unmounted.is_some();
                let ended = ended.or_else(|e| if is_end(&e) { Ok(()) } else { Err(e) });
                return ended.map_err(|e| Error::io(format!("the mount on {shown} ended by a failure"), e));
            }
            if state.aborted {
                return Ok(());
            }
            match state.unmounted.and_then(|since| since.checked_add(shared.grace)) {
                None => shared.changed.wait(&mut state),
                Some(deadline) => {
                    if shared.changed.wait_until(&mut state, deadline).timed_out() && state.ended.is_none() {
                        shared.abort(&mut state);
                    }
                }
            }
        }
    }

    /// Whether it is mounted no more, whoever unmounted it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let state = self.unmounter.shared.state.lock();
        state.ended.is_some() || state.aborted
    }

    /// A handle to unmount with, for a thread that handles signals.
    #[must_use]
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }
}

/// Take away what is mounted on `mountpoint`, also what a process that was killed has left there. Nothing is no error.
///
/// # Errors
///
/// When the system refuses.
pub fn detach(mountpoint: &Path) -> Result<()> {
    use rustix::{io::Errno, mount::UnmountFlags};
    // One may be on top of another.
    for _ in 0..MOUNTS_MAX {
        match rustix::mount::unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(e) => return Err(Error::io(format!("cannot unmount {}", mountpoint.display()), e.into())),
        }
    }
    Err(Error::invalid(format!("{} is mounted on again and again", mountpoint.display())))
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(e) = self.unmounter.unmount() {
            (self.unmounter.shared.log)(&e.to_string());
        }
    }
}

impl Unmounter {
    /// Unmount. Called again while something is still being served, it ends that.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn unmount(&self) -> Result<Unmounted> {
        let shared = &self.shared;
        // Held to the end: a second caller sees what the first did.
        let mut unmounter = shared.unmounter.lock();
        let mut state = shared.state.lock();
        if state.ended.is_some() || state.aborted {
            return Ok(Unmounted::Clean);
        }
        if state.unmounted.is_some() {
            shared.abort(&mut state);
            return Ok(Unmounted::Clean);
        }
        drop(state);
        let outcome = shared.unmount(&mut unmounter)?;
        if outcome == Unmounted::Detached {
            (shared.log)(&format!(
                "{} is in use: unmounted, open files are served for another {} s (signal again to end now)",
                shared.mountpoint.display(),
                shared.grace.as_secs()
            ));
        }
        shared.state.lock().unmounted = Some(Instant::now());
        shared.changed.notify_all();
        Ok(outcome)
    }
}

impl Shared {
    fn unmount(&self, unmounter: &mut SessionUnmounter) -> Result<Unmounted> {
        let failed = |e: io::Error| Error::io(format!("cannot unmount {}", self.mountpoint.display()), e);
        if !rustix::process::geteuid().is_root() {
            // fuser asks fusermount for a lazy unmount only; so ask for a clean one first.
            if fusermount(&self.mountpoint) {
                return Ok(Unmounted::Clean);
            }
            unmounter.unmount().map_err(failed)?;
            return Ok(Unmounted::Detached);
        }
        match unmounter.unmount() {
            Ok(()) => Ok(Unmounted::Clean),
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                use rustix::mount::UnmountFlags;
                rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                    .map_err(|e| failed(e.into()))?;
                Ok(Unmounted::Detached)
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// End the connection: requests under way and later ones fail.
    fn abort(&self, state: &mut State) {
        state.aborted = true;
        if let Some((_, minor)) = self.device {
            // Not there when fusectl is not mounted: then the end of this process does it.
            let _absent = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
        }
        (self.log)(&format!("{}: ended while it was in use", self.mountpoint.display()));
        self.changed.notify_all();
    }
}

fn fusermount(mountpoint: &Path) -> bool {
    let mut command = Command::new("fusermount3");
    command.arg("-u").arg("--").arg(mountpoint).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The number of the mounted filesystem, from what the kernel knows: nothing is asked of the filesystem itself.
fn device_of(mountpoint: &Path) -> Option<(u32, u32)> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(CWD, mountpoint, flags, StatxFlags::empty()).ok()?;
    Some((stat.stx_dev_major, stat.stx_dev_minor))
}

/// The kernel gives a FUSE mount 128 KiB of read-ahead whatever is asked for at its start. Root can change that
/// afterwards; others read in smaller pieces.
fn enlarge_read_ahead((major, minor): (u32, u32)) {
    let _not_root = std::fs::write(
        format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"),
        (u64::from(MAX_READ) / 1024).to_string(),
    );
}
