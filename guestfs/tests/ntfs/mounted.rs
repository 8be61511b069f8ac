//! Volumes that the tests make with NTFS-3G, and what NTFS-3G says of them.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt, fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use blockdev::BlockDevice;
use guestfs::{FileId, FileSystem, Kind, Time};
use tempfile::TempDir;

use crate::common::{device, entries, filesystem};

/// A volume in a file, with the folder it is in.
pub struct Made {
    folder: TempDir,
}

/// A volume that is mounted.
pub struct Mount<'a> {
    made: &'a Made,
    driver: Child,
}

fn run(tool: &str, arguments: &[&OsStr]) -> bool {
    let mut command = Command::new(tool);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Made {
    /// An empty volume of `mib` MiB that `mkntfs` makes with `options`; `None` where it is not there, or cannot be
    /// mounted by this user.
    pub fn new(mib: u64, options: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let made = Self { folder };
        fs::File::create(made.image()).unwrap().set_len(mib << 20).unwrap();
        fs::create_dir(made.place()).unwrap();
        let image = made.image();
        let mut arguments: Vec<&OsStr> = ["-q", "-F", "-f"].iter().chain(options).map(OsStr::new).collect();
        arguments.push(image.as_os_str());
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() || !run("mkntfs", &arguments) {
            println!("SKIPPED: making volumes needs root, FUSE, mkntfs and ntfs-3g");
            return None;
        }
        Some(made)
    }

    pub fn image(&self) -> PathBuf {
        self.folder.path().join("volume.raw")
    }

    pub fn place(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// The volume as a disk.
    pub fn device(&self) -> Arc<dyn BlockDevice> {
        device(&self.image())
    }

    /// The volume as it is read here.
    pub fn filesystem(&self) -> Arc<dyn FileSystem> {
        filesystem(&[self.device()])
    }

    /// Mounts it with further `options`.
    pub fn mount(&self, options: &str) -> Mount<'_> {
        let options = format!("no_detach,streams_interface=xattr,compression,big_writes,{options}");
        let mut command = Command::new("ntfs-3g");
        command.arg("-o").arg(options).arg(self.image()).arg(self.place()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut driver = command.spawn().unwrap();
        let outside = fs::metadata(self.folder.path()).unwrap().dev();
        while fs::metadata(self.place()).unwrap().dev() == outside {
            assert!(driver.try_wait().unwrap().is_none(), "ntfs-3g cannot mount {}", self.image().display());
            std::thread::sleep(Duration::from_millis(2));
        }
        Mount { made: self, driver }
    }
}

impl Mount<'_> {
    pub fn path(&self, path: &str) -> PathBuf {
        self.made.place().join(path)
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn set(&self, path: &str, name: &str, value: &[u8]) {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(self.path(path), name, value, flags).unwrap_or_else(|e| panic!("{name} of {path}: {e}"));
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let place = self.made.place();
        assert!(run("umount", &[place.as_ref()]), "cannot unmount {}", place.display());
        // It writes the last of it when it ends, a moment after the mount point is free.
        assert!(self.driver.wait().unwrap().success());
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1 << 20];
    let size = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(size);
    Some(value)
}

fn streams(path: &Path) -> BTreeSet<Vec<u8>> {
    let mut names = vec![0; 1 << 20];
    let size = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..size].split(|byte| *byte == 0);
    names.filter_map(|name| name.strip_prefix(b"user.")).map(<[u8]>::to_vec).collect()
}

const fn time((seconds, nanos): (i64, i64)) -> Time {
    Time { seconds, nanos: nanos as u32 }
}

/// A time in NTFS' own form, as NTFS-3G gives it.
fn time_of(stored: &[u8]) -> Time {
    let stored = i64::from_ne_bytes(stored.try_into().unwrap());
    Time { seconds: stored.div_euclid(10_000_000) - 11_644_473_600, nanos: stored.rem_euclid(10_000_000) as u32 * 100 }
}

/// Compares the whole tree of `made` with what NTFS-3G shows. Returns how many files that are.
pub fn assert_same(made: &Made) -> usize {
    let mount = made.mount("ro");
    let ours = made.filesystem();
    let mut todo = vec![(made.place(), ours.root())];
    let mut seen = 0;
    while let Some((path, id)) = todo.pop() {
        assert_same_file(ours.as_ref(), id, &path);
        seen += 1;
        if ours.metadata(id).unwrap().kind != Kind::Dir {
            continue;
        }
        let listed = entries(ours.as_ref(), id).unwrap();
        let found: BTreeSet<_> = listed.iter().map(|entry| entry.name.clone()).collect();
        assert_eq!(found.len(), listed.len(), "{}: a name twice", path.display());
        let theirs: BTreeSet<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
        assert_eq!(found, theirs, "{}", path.display());
        for entry in listed {
            assert_eq!(ours.lookup(id, &entry.name).unwrap(), Some(entry.id));
            assert_eq!(ours.metadata(entry.id).unwrap().kind, entry.kind, "{:?}", entry.name);
            todo.push((path.join(OsStr::from_bytes(&entry.name)), entry.id));
        }
    }
    drop(mount);
    seen
}

fn assert_same_file(ours: &dyn FileSystem, id: FileId, path: &Path) {
    let shown = path.display();
    let theirs = fs::symlink_metadata(path).unwrap();
    let found = ours.metadata(id).unwrap_or_else(|e| panic!("{shown}: {e}"));
    let kind = theirs.file_type();
    let kind = [
        (kind.is_dir(), Kind::Dir),
        (kind.is_file(), Kind::File),
        (kind.is_symlink(), Kind::Symlink),
        (kind.is_fifo(), Kind::Fifo),
        (kind.is_socket(), Kind::Socket),
        (kind.is_char_device(), Kind::CharDevice),
        (kind.is_block_device(), Kind::BlockDevice),
    ]
    .into_iter()
    .find_map(|(is, kind)| is.then_some(kind));
    assert_eq!(Some(found.kind), kind, "{shown}");
    // NTFS-3G counts the name for DOS.
    let names_for_dos = u64::from(xattr(path, "system.ntfs_dos_name").is_some());
    assert_eq!(u64::from(found.nlink) + names_for_dos, theirs.nlink(), "links of {shown}");
    assert_eq!(found.modified, time((theirs.mtime(), theirs.mtime_nsec())), "{shown}");
    assert_eq!(found.accessed, time((theirs.atime(), theirs.atime_nsec())), "{shown}");
    assert_eq!(found.changed, time((theirs.ctime(), theirs.ctime_nsec())), "{shown}");
    assert_eq!(found.created, Some(time_of(&xattr(path, "system.ntfs_crtime").unwrap())), "{shown}");
    let rdev = (rustix::fs::major(theirs.rdev()), rustix::fs::minor(theirs.rdev()));
    assert_eq!(found.rdev, rdev, "{shown}");
    match found.kind {
        Kind::File => {
            assert_eq!(found.size, theirs.size(), "{shown}");
            let content = crate::common::open(ours, id).unwrap();
            let mut bytes = vec![0; found.size as usize];
            blockdev::ReadAt::read_at(&content, &mut bytes, 0).unwrap_or_else(|e| panic!("{shown}: {e}"));
            assert!(fs::read(path).unwrap() == bytes, "the content of {shown}");
        }
        Kind::Symlink => {
            let target = fs::read_link(path).unwrap();
            assert_eq!(ours.link_target(id).unwrap(), target.as_os_str().as_bytes(), "{shown}");
            assert_eq!(found.size, target.as_os_str().len() as u64, "{shown}");
        }
        _ => {}
    }
    let xattrs = ours.xattrs(id).unwrap();
    for name in ["system.ntfs_acl", "system.ntfs_attrib", "system.ntfs_reparse_data"] {
        let found = xattrs.iter().find(|xattr| xattr.name == name.as_bytes()).map(|xattr| xattr.value.clone());
        assert_eq!(found, xattr(path, name), "{name} of {shown}");
    }
    let mut names = BTreeSet::new();
    for stream in ours.streams(id).unwrap() {
        let name = format!("user.{}", String::from_utf8(stream.name.clone()).unwrap());
        let content = crate::lab::reader(ours.stream(id, &stream.name).unwrap());
        let mut bytes = vec![0; stream.size as usize];
        assert_eq!(blockdev::ReadAt::read_at(&content, &mut bytes, 0).unwrap(), bytes.len());
        assert_eq!(xattr(path, &name), Some(bytes), "{name} of {shown}");
        names.insert(stream.name);
    }
    assert_eq!(names, streams(path), "streams of {shown}");
}
