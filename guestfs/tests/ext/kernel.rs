//! The kernel's own reader: a volume that it mounts, and the comparison of all that both say.

use std::{
    ffi::OsStr,
    fs,
    io::Read,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use blockdev::ReadAt;
use guestfs::{FileId, FileSystem, Kind, Time, Xattr};

use crate::common;

/// Runs a tool, which is to succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}{text}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A new image of `mib` MiB in `folder`, formatted by `mkfs.ext4` with `options`.
pub fn formatted(folder: &Path, mib: u64, options: &str) -> PathBuf {
    let image = folder.join("volume.raw");
    fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
    let mut args: Vec<_> = options.split_whitespace().collect();
    args.extend(["-q", "-F", image.to_str().unwrap()]);
    run("mkfs.ext4", &args);
    image
}

/// A volume that the kernel has mounted.
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts `image` in `folder`; none, with a line that says so, where that cannot be done.
    pub fn new(image: &Path, folder: &Path, options: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: mounting takes root");
            return None;
        }
        let place = folder.join("mounted");
        fs::create_dir_all(&place).unwrap();
        let options = format!("loop,{options}");
        let output = Command::new("mount").args(["-t", "ext4", "-o", &options]).args([image, &place]).output().unwrap();
        if !output.status.success() {
            println!("SKIPPED: this kernel does not mount it: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self(place))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "umount {}", self.0.display());
    }
}

/// Compares all that the kernel, which has the volume mounted in `place`, says of it with what `fs` does. Gives the number
/// of files.
pub fn assert_same(fs: &dyn FileSystem, place: &Path) -> usize {
    let metadata = fs::symlink_metadata(place).unwrap();
    assert_eq!(fs.root().number, metadata.ino());
    assert_same_file(fs, fs.root(), place);
    1 + assert_same_directory(fs, fs.root(), place)
}

fn assert_same_directory(fs: &dyn FileSystem, dir: FileId, place: &Path) -> usize {
    let mut listed = common::entries(fs, dir).unwrap_or_else(|e| panic!("{}: {e}", place.display()));
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let mut known: Vec<_> = fs::read_dir(place).unwrap().map(|e| e.unwrap().file_name().into_vec()).collect();
    known.sort();
    let names: Vec<_> = listed.iter().map(|entry| entry.name.clone()).collect();
    assert_eq!(names.len(), known.len(), "entries of {}", place.display());
    assert_eq!(names, known, "entries of {}", place.display());
    let mut count = listed.len();
    for entry in listed {
        let path = place.join(OsStr::from_bytes(&entry.name));
        let found = fs.lookup(dir, &entry.name).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(found, Some(entry.id), "lookup of {}", path.display());
        let kind = assert_same_file(fs, entry.id, &path);
        assert_eq!(entry.kind, kind, "kind of the entry {}", path.display());
        if kind == Kind::Dir {
            count += assert_same_directory(fs, entry.id, &path);
        }
    }
    for absent in [&b"no such name"[..], b".", b"..", b"", &[b'x'; 255], &[b'x'; 256]] {
        assert_eq!(fs.lookup(dir, absent).unwrap(), None, "{absent:?} in {}", place.display());
    }
    count
}

/// Compares one file, and gives its type.
fn assert_same_file(fs: &dyn FileSystem, id: FileId, path: &Path) -> Kind {
    let shown = path.display();
    let known = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{shown}: {e}"));
    let found = fs.metadata(id).unwrap_or_else(|e| panic!("{shown}: {e}"));
    let kind = match known.file_type() {
        t if t.is_dir() => Kind::Dir,
        t if t.is_symlink() => Kind::Symlink,
        t if t.is_fifo() => Kind::Fifo,
        t if t.is_socket() => Kind::Socket,
        t if t.is_char_device() => Kind::CharDevice,
        t if t.is_block_device() => Kind::BlockDevice,
        _ => Kind::File,
    };
    let time = |seconds, nanos: i64| Time { seconds, nanos: nanos as u32 };
    let rdev = (rustix::fs::major(known.rdev()), rustix::fs::minor(known.rdev()));
    let expected = guestfs::Metadata {
        kind,
        permissions: known.mode() & 0o7777,
        nlink: known.nlink() as u32,
        uid: known.uid(),
        gid: known.gid(),
        rdev,
        size: known.size(),
        allocated: known.blocks() * 512,
        accessed: time(known.atime(), known.atime_nsec()),
        modified: time(known.mtime(), known.mtime_nsec()),
        changed: time(known.ctime(), known.ctime_nsec()),
        created: known.created().ok().map(time_of),
    };
    assert_eq!(found, expected, "{shown}");
    assert_eq!(id.number, known.ino(), "inode of {shown}");
    let mut attributes = fs.xattrs(id).unwrap_or_else(|e| panic!("{shown}: {e}"));
    attributes.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(attributes, xattrs(path), "attributes of {shown}");
    match kind {
        Kind::File => assert_same_content(fs, id, path),
        Kind::Symlink => {
            let target = fs.link_target(id).unwrap_or_else(|e| panic!("{shown}: {e}"));
            assert_eq!(target, fs::read_link(path).unwrap().into_os_string().into_vec(), "target of {shown}");
        }
        _ => assert!(fs.content(id).is_err(), "content of {shown}"),
    }
    kind
}

fn time_of(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time { seconds: after.as_secs() as i64, nanos: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => Time { seconds: -(before.as_secs() as i64), nanos: 0 },
                nanos => Time { seconds: -(before.as_secs() as i64) - 1, nanos: 1_000_000_000 - nanos },
            }
        }
    }
}

/// All attributes that the kernel gives, ordered by name.
fn xattrs(path: &Path) -> Vec<Xattr> {
    let mut names = vec![0; 64 << 10];
    let n = rustix::fs::llistxattr(path, &mut names).unwrap();
    let mut all: Vec<_> = names[..n].split(|b| *b == 0).filter(|name| !name.is_empty()).collect();
    all.sort();
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let n = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value.truncate(n);
        value
    };
    all.into_iter().map(|name| Xattr { name: name.to_vec(), value: value(name) }).collect()
}

fn assert_same_content(fs: &dyn FileSystem, id: FileId, path: &Path) {
    let content = common::open(fs, id).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut known = fs::File::open(path).unwrap();
    let (mut theirs, mut ours, mut at) = (vec![0; 1 << 20], vec![0; 1 << 20], 0);
    loop {
        let n = known.read(&mut theirs).unwrap();
        let m = content.read_at(&mut ours[..n], at).unwrap_or_else(|e| panic!("{} at {at}: {e}", path.display()));
        assert_eq!((at, m), (at, n), "read of {}", path.display());
        if ours[..n] != theirs[..n] {
            let different = ours[..n].iter().zip(&theirs[..n]).position(|(a, b)| a != b).unwrap();
            panic!("{} differs from byte {} on", path.display(), at + different as u64);
        }
        at += n as u64;
        if n == 0 {
            break;
        }
    }
    assert_eq!(at, content.size(), "size of {}", path.display());
}
