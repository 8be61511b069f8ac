//! The tree, mounted by a process of its own.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{can_mount, temp};

/// A mount, and its end.
#[derive(Debug)]
pub struct Mounted(Child, tempfile::TempDir);

impl Mounted {
    /// What `command` (`revenant` with its sources) mounts; `None`, with a line that says why, where nothing can be
    /// mounted.
    ///
    /// # Panics
    ///
    /// When no mount appears.
    pub fn of(mut command: Command) -> Option<Self> {
        if !can_mount("mounting", &[]) {
            return None;
        }
        let folder = temp();
        command.args(["mount".as_ref(), "--foreground".as_ref(), folder.path().as_os_str()]).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("mounting");
        let mounted = Self(child, folder);
        wait("the mount", || mounted.path().read_dir().is_ok_and(|mut entries| entries.next().is_some()));
        Some(mounted)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.1.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.1.path()).status();
        let _ = self.0.wait();
    }
}

/// Waits until something is `done`, at most a minute.
///
/// # Panics
///
/// When it takes longer.
pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come");
        thread::sleep(Duration::from_millis(20));
    }
}
