//! Images made by `mkfs.btrfs` and the kernel, and the comparison of a whole tree with the kernel's mount of it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::Metadata,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use blockdev::BlockDevice;
use guestfs::{FileId, FileSystem, Kind, Time};
use tempfile::TempDir;

use crate::common::{self, digest};

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
        self.mounted =
            run("btrfs", &scan).is_some() && run("mount", &[mount.as_slice(), &[root.as_os_str()]].concat()).is_some();
        self.mounted
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

/// What is compared of a file.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    number: u64,
    kind: Kind,
    permissions: u32,
    nlink: u32,
    owner: (u32, u32),
    rdev: (u32, u32),
    size: u64,
    allocated: u64,
    times: [Time; 3],
    created: Option<Time>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Digest or target.
    content: String,
}

/// Compares all of `fs` with what the kernel shows at `root`: names, `stat`, extended attributes, content and targets;
/// and finding by name with listing. The number of files.
pub fn assert_same(fs: &dyn FileSystem, root: &Path) -> usize {
    assert_same_since(fs, root, SystemTime::now())
}

/// The same; times that the kernel set after `mounted`, in replaying a log, are not compared.
pub fn assert_same_since(fs: &dyn FileSystem, root: &Path, mounted: SystemTime) -> usize {
    let mounted = since_1970(mounted);
    let top = fs.root();
    assert_eq!(facts(fs, top), facts_of(root), "the topmost directory");
    let (mut todo, mut count) = (vec![(top, root.to_owned())], 0);
    while let Some((dir, place)) = todo.pop() {
        let mut names: BTreeMap<Vec<u8>, PathBuf> = BTreeMap::new();
        for entry in std::fs::read_dir(&place).unwrap() {
            let entry = entry.unwrap();
            names.insert(entry.file_name().as_bytes().to_vec(), entry.path());
        }
        for entry in common::entries(fs, dir).unwrap() {
            let path = names.remove(&entry.name);
            let path = path.unwrap_or_else(|| panic!("{} has no {:?}", place.display(), entry.name.escape_ascii()));
            assert_eq!(fs.lookup(dir, &entry.name).unwrap(), Some(entry.id), "{}", path.display());
            let (found, mut expected) = (facts(fs, entry.id), facts_of(&path));
            if expected.number == 2 {
                // What is left of a subvolume in a snapshot: the kernel makes it up, with the time of today.
                expected = Facts { number: found.number, times: found.times, created: found.created, ..expected };
            }
            for (time, found) in expected.times.iter_mut().zip(found.times).filter(|(time, _)| **time > mounted) {
                *time = found;
            }
            assert_eq!(found, expected, "{}", path.display());
            assert_eq!(entry.kind, found.kind, "{}", path.display());
            if entry.kind == Kind::Dir {
                todo.push((entry.id, path));
            }
            count += 1;
        }
        assert!(names.is_empty(), "not found: {names:?}");
        assert_eq!(fs.lookup(dir, b"no such name").unwrap(), None);
    }
    count
}

fn facts(fs: &dyn FileSystem, id: FileId) -> Facts {
    let m = fs.metadata(id).unwrap();
    let content = match m.kind {
        Kind::File => digest(&common::open(fs, id).unwrap(), u64::MAX).unwrap_or_else(|e| panic!("{id:?}: {e}")),
        Kind::Symlink => fs.link_target(id).unwrap().escape_ascii().to_string(),
        _ => String::new(),
    };
    Facts {
        number: id.number,
        kind: m.kind,
        permissions: m.permissions,
        nlink: m.nlink,
        owner: (m.uid, m.gid),
        rdev: m.rdev,
        size: m.size,
        allocated: m.allocated,
        times: [m.accessed, m.modified, m.changed],
        created: m.created,
        xattrs: fs.xattrs(id).unwrap().into_iter().map(|x| (x.name, x.value)).collect(),
        content,
    }
}

fn facts_of(path: &Path) -> Facts {
    let m = std::fs::symlink_metadata(path).unwrap();
    let kind = kind(&m);
    let content = match kind {
        Kind::File => digest(&std::fs::read(path).unwrap(), u64::MAX).unwrap(),
        Kind::Symlink => std::fs::read_link(path).unwrap().as_os_str().as_bytes().escape_ascii().to_string(),
        _ => String::new(),
    };
    let time = |seconds, nanos| Time { seconds, nanos: u32::try_from(nanos).unwrap() };
    let rdev = m.rdev();
    let has_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    Facts {
        number: m.ino(),
        kind,
        permissions: m.mode() & 0o7777,
        nlink: u32::try_from(m.nlink()).unwrap(),
        owner: (m.uid(), m.gid()),
        rdev: if has_device { (rustix::fs::major(rdev), rustix::fs::minor(rdev)) } else { (0, 0) },
        size: m.size(),
        allocated: m.blocks() * 512,
        times: [time(m.atime(), m.atime_nsec()), time(m.mtime(), m.mtime_nsec()), time(m.ctime(), m.ctime_nsec())],
        created: m.created().ok().map(since_1970),
        xattrs: xattrs(path),
        content,
    }
}

fn since_1970(time: SystemTime) -> Time {
    let since = time.duration_since(UNIX_EPOCH).unwrap();
    Time { seconds: i64::try_from(since.as_secs()).unwrap(), nanos: since.subsec_nanos() }
}

fn kind(m: &Metadata) -> Kind {
    let t = m.file_type();
    match () {
        () if t.is_dir() => Kind::Dir,
        () if t.is_file() => Kind::File,
        () if t.is_symlink() => Kind::Symlink,
        () if t.is_fifo() => Kind::Fifo,
        () if t.is_char_device() => Kind::CharDevice,
        () if t.is_block_device() => Kind::BlockDevice,
        () => Kind::Socket,
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
        value[..len].to_vec()
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}
