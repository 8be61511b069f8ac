//! A live QEMU without a guest: what its guest would write is written by its monitor.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// Its disks, and what is on them.
#[derive(Debug)]
pub struct LiveVm {
    folder: PathBuf,
    /// The bytes of each disk, as the guest sees them.
    pub disks: Vec<Vec<u8>>,
}

impl LiveVm {
    /// A running one with `disks` empty disks of `size` bytes; `None`, with a line that says why, where there is no QEMU.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn start(folder: &Path, disks: usize, size: usize) -> Option<Self> {
        if !Path::new("/usr/bin/qemu-system-x86_64").exists() {
            println!("SKIPPED: no qemu-system-x86_64 (cargo xtask setup)");
            return None;
        }
        let vm = Self { folder: folder.to_owned(), disks: vec![vec![0; size]; disks] };
        vm.boot();
        Some(vm)
    }

    /// Starts it again with the disks that it has.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn boot(&self) {
        let size = self.disks[0].len().to_string();
        self.run(&["start"], &[&size, &self.disks.len().to_string()]);
    }

    /// Ends it in good order: what it tracks is stored.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn stop(&self) {
        self.run(&["stop"], &[]);
    }

    /// Sends QEMU a signal.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a signal");
    }

    /// QEMU's process.
    ///
    /// # Panics
    ///
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let text = fs::read_to_string(self.folder.join("pid")).expect("its process's number");
        text.trim().parse().ok().and_then(Pid::from_raw).expect("a number")
    }

    /// A loss of power.
    ///
    /// # Panics
    ///
    /// When it cannot be killed.
    pub fn kill(&self) {
        self.run(&["reset-hard"], &[]);
    }

    /// The socket of its monitor.
    #[must_use]
    pub fn qmp(&self) -> PathBuf {
        self.folder.join("qmp.sock")
    }

    /// The image of a disk.
    #[must_use]
    pub fn image(&self, disk: usize) -> PathBuf {
        self.folder.join(format!("disk{disk}.qcow2"))
    }

    /// The guest writes `len` times `byte`.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn write(&mut self, disk: usize, offset: usize, len: usize, byte: u8) {
        self.disks[disk][offset..offset + len].fill(byte);
        let numbers = [offset.to_string(), len.to_string(), format!("0x{byte:02x}"), disk.to_string()];
        self.run(&["write"], &numbers.each_ref().map(String::as_str));
    }

    /// The guest wants what it has written to survive a loss of power.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn flush(&self, disk: usize) {
        self.run(&["flush"], &[&disk.to_string()]);
    }

    /// The command by which somebody else writes so.
    #[must_use]
    pub fn write_command(&self, disk: usize, offset: usize, len: usize, byte: u8) -> String {
        let script = script();
        format!("bash {} write {} {offset} {len} 0x{byte:02x} {disk}", script.display(), self.folder.display())
    }

    /// The command by which somebody else asks its monitor: it has no quotes.
    ///
    /// # Panics
    ///
    /// When no script can be written.
    #[must_use]
    pub fn ask_command(&self, command: &str) -> String {
        let file = self.folder.join("ask.sh");
        let text = format!("bash {} qmp {} '{command}'\n", script().display(), self.folder.display());
        fs::write(&file, text).expect("a script");
        format!("bash {}", file.display())
    }

    /// What a monitor's command returns.
    ///
    /// # Panics
    ///
    /// When it is refused.
    #[must_use]
    pub fn ask(&self, command: &str) -> String {
        self.run(&["qmp"], &[command])
    }

    fn run(&self, command: &[&str], args: &[&str]) -> String {
        let out = Command::new("bash")
            .arg(script())
            .args(command)
            .arg(&self.folder)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("the lab script");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{command:?} {args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/qemu-live-vm.sh")
}

impl Drop for LiveVm {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.folder.join("pid")).unwrap_or_default();
        if !pid.trim().is_empty() {
            let _ = Command::new("kill").args(["-9", pid.trim()]).stderr(Stdio::null()).status();
        }
    }
}
