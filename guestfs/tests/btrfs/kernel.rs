//! Images made by `mkfs.btrfs` and the kernel, on one device or more, and the comparison with the kernel's mount of them.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use blockdev::BlockDevice;
use guestfs::{FileSystem, Time};
use tempfile::TempDir;

use crate::common::{self, kernel::assert_same_but};

/// Runs a command; its output if it succeeds.
pub fn run(program: &str, arguments: &[&OsStr]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    if !output.status.success() {
        println!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a shell script in a folder, which must succeed.
pub fn script(folder: &Path, script: &str) {
    let status = Command::new("bash").args(["-euc", script]).current_dir(folder).status().unwrap();
    assert!(status.success(), "the script failed");
}

/// Devices in files that are attached as long as this lives.
pub struct Machine {
    folder: TempDir,
    loops: Vec<String>,
    mounted: bool,
}

impl Machine {
    /// A filesystem that `mkfs.btrfs` makes with `options` on `count` devices of `mib` MiB each, mounted with `mount`.
    /// None, with a line that says so, where that is not possible.
    pub fn new(count: usize, mib: u64, options: &[&str], mount: &str) -> Option<Self> {
        let skipped = || println!("SKIPPED: btrfs cannot be made and mounted here (root, btrfs-progs, loop devices)");
        let folder = tempfile::tempdir().unwrap();
        let mut machine = Self { folder, loops: Vec::new(), mounted: false };
        for index in 0..count {
            let path = machine.path(index);
            std::fs::File::create(&path).unwrap().set_len(mib << 20).unwrap();
        }
        let paths: Vec<_> = (0..count).map(|index| machine.path(index)).collect();
        let mut arguments: Vec<&OsStr> = vec!["-q".as_ref(), "-f".as_ref()];
        arguments.extend(options.iter().map(OsStr::new));
        arguments.extend(paths.iter().map(|path| path.as_os_str()));
        if run("mkfs.btrfs", &arguments).is_none() || !machine.mount(mount) {
            skipped();
            return None;
        }
        Some(machine)
    }

    /// The file of device `index`.
    pub fn path(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("device{index}.raw"))
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// Attaches and mounts it.
    pub fn mount(&mut self, options: &str) -> bool {
        for index in 0.. {
            let path = self.path(index);
            if !path.exists() {
                break;
            }
            let Some(device) = run("losetup", &["-f".as_ref(), "--show".as_ref(), path.as_os_str()]) else {
                return false;
            };
            self.loops.push(device.trim().to_owned());
        }
        let _ = std::fs::create_dir(self.root());
        let mut scan: Vec<&OsStr> = vec!["device".as_ref(), "scan".as_ref()];
        scan.extend(self.loops.iter().map(OsStr::new));
        let root = self.root();
        let mount = ["-t", "btrfs", "-o", options, &self.loops[0]].map(OsStr::new);
        // What is not a member yet is none of its business.
        let _ = run("btrfs", &scan);
        self.mounted = run("mount", &[mount.as_slice(), &[root.as_os_str()]].concat()).is_some();
        self.mounted
    }

    /// The devices as the kernel has them, while it is mounted.
    pub fn loops(&self) -> &[String] {
        &self.loops
    }

    /// Unmounts and detaches it.
    pub fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            run("umount", &[self.root().as_os_str()]);
        }
        for device in std::mem::take(&mut self.loops) {
            // Otherwise the kernel remembers it as a member.
            let _ = run("btrfs", &["device".as_ref(), "scan".as_ref(), "-u".as_ref(), device.as_ref()]);
            run("losetup", &["-d".as_ref(), device.as_ref()]);
        }
    }

    /// The devices.
    pub fn devices(&self) -> Vec<Arc<dyn BlockDevice>> {
        (0..).map(|index| self.path(index)).take_while(|path| path.exists()).map(|path| common::device(&path)).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Compares all of `fs` with what the kernel shows at `root`; the number of files. Times that the kernel set after
/// `mounted`, in replaying a log, are not compared.
pub fn assert_same(fs: &dyn FileSystem, root: &Path, mounted: Option<SystemTime>) -> usize {
    let mounted = mounted.map(|time| {
        let since = time.duration_since(UNIX_EPOCH).unwrap();
        Time { seconds: since.as_secs().cast_signed(), nanos: since.subsec_nanos() }
    });
    assert_same_but(fs, root, &|found, of_kernel| {
        let (found_times, times) = (&found.metadata, &mut of_kernel.metadata);
        // What is left of a subvolume in a snapshot: the kernel makes it up, with the time of today.
        let is_made_up = of_kernel.inode == 2;
        let is_new = |time: Time| is_made_up || mounted.is_some_and(|mounted| time > mounted);
        for (time, found) in [
            (&mut times.accessed, found_times.accessed),
            (&mut times.modified, found_times.modified),
            (&mut times.changed, found_times.changed),
        ] {
            if is_new(*time) {
                *time = found;
            }
        }
        if is_made_up {
            of_kernel.inode = found.inode;
            times.created = found_times.created;
        }
    })
}
