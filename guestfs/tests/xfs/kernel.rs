//! The kernel as the other implementation: volumes made and mounted by it, and all it shows of them compared.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use crc_fast::{CrcAlgorithm, checksum};
use guestfs::{FileId, FileSystem, Kind, Metadata, Time, Xattr};
use rustix::fs::{CWD, StatxFlags, statx};
use tempfile::TempDir;

use crate::common::{digest, entries, open};

/// A volume in a file, and a place to mount it on.
pub struct Volume {
    folder: TempDir,
    mounted: bool,
}

impl Volume {
    /// One of `size` bytes that `mkfs.xfs` makes with `options`; `None` where it cannot be made and mounted.
    pub fn make(size: u64, options: &[&str]) -> Option<Self> {
        let volume = Self::new()?;
        fs::File::create(volume.image()).unwrap().set_len(size).unwrap();
        let made = Command::new("mkfs.xfs").arg("-qf").args(options).arg(volume.image()).output();
        match made {
            Ok(output) if output.status.success() => Some(volume),
            Ok(output) => {
                println!("SKIPPED: mkfs.xfs {options:?}: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(e) => {
                println!("SKIPPED: mkfs.xfs: {e}");
                None
            }
        }
    }

    /// A copy of `image`.
    pub fn copy(image: &Path) -> Option<Self> {
        let volume = Self::new()?;
        let copied = Command::new("cp").arg("--sparse=always").arg(image).arg(volume.image()).status().unwrap();
        assert!(copied.success());
        Some(volume)
    }

    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can mount");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        Some(Self { folder, mounted: false })
    }

    /// Its file.
    pub fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// Adds features to its superblock, which has 512 bytes.
    pub fn add_incompatible(&self, features: u32) {
        let image = fs::File::options().read(true).write(true).open(self.image()).unwrap();
        let mut sector = [0; 512];
        image.read_exact_at(&mut sector, 0).unwrap();
        let field = &mut sector[216..220];
        let features = features | u32::from_be_bytes(field.try_into().unwrap());
        field.copy_from_slice(&features.to_be_bytes());
        sector[224..228].fill(0);
        let sum = checksum(CrcAlgorithm::Crc32Iscsi, &sector) as u32;
        sector[224..228].copy_from_slice(&sum.to_le_bytes());
        image.write_all_at(&sector, 0).unwrap();
    }

    /// Mounts it; `None` where the kernel cannot.
    pub fn mount(&mut self, options: &str) -> Option<()> {
        let image = self.image();
        self.mount_image(&image, options)
    }

    /// Mounts the volume in the file `image`.
    pub fn mount_image(&mut self, image: &Path, options: &str) -> Option<()> {
        let output = Command::new("mount")
            .args(["-t", "xfs", "-o", &format!("loop,nouuid,{options}")])
            .arg(image)
            .arg(self.root())
            .output()
            .unwrap();
        if !output.status.success() {
            println!("SKIPPED: this kernel does not mount it: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        self.mounted = true;
        Some(())
    }

    /// Only a place to mount on.
    pub fn place() -> Option<Self> {
        Self::new()
    }

    /// Unmounts it.
    pub fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            assert!(Command::new("umount").arg(self.root()).status().unwrap().success());
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Writes all of the volume at `root` to its file.
pub fn sync(root: &Path) {
    rustix::fs::syncfs(fs::File::open(root).unwrap()).unwrap();
}

/// What is compared of a file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    inode: u64,
    metadata: Metadata,
    /// Target of a link, or digest of the content.
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Compares all of `fs` with what the kernel shows at `root`, and looks each entry up.
pub fn assert_same(fs: &dyn FileSystem, root: &Path) {
    let mut compared = 0;
    let mut todo = vec![(fs.root(), root.to_owned())];
    while let Some((dir, path)) = todo.pop() {
        let expected: BTreeMap<_, _> =
            fs::read_dir(&path).unwrap().map(|e| e.unwrap()).map(|e| (e.file_name().as_bytes().to_vec(), e)).collect();
        let found = entries(fs, dir).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let names: BTreeMap<_, _> = found.iter().map(|e| (e.name.clone(), e)).collect();
        assert_eq!(names.len(), found.len(), "{}: a name is given twice", path.display());
        assert!(names.keys().eq(expected.keys()), "{}: {}", path.display(), difference(&names, &expected));
        for (name, entry) in names {
            let path = path.join(OsStr::from_bytes(&name));
            assert_eq!(fs.lookup(dir, &name).unwrap(), Some(entry.id), "{}", path.display());
            let mut other = name.clone();
            other.push(b'~');
            assert_eq!(fs.lookup(dir, &other).unwrap(), None);
            let of_kernel = of_kernel(&path);
            assert_eq!(entry.kind, of_kernel.metadata.kind, "{}", path.display());
            assert_eq!(seen(fs, entry.id), of_kernel, "{}", path.display());
            if entry.kind == Kind::Dir {
                todo.push((entry.id, path));
            }
            compared += 1;
        }
    }
    assert_eq!(seen(fs, fs.root()), of_kernel(root), "the topmost directory");
    println!("{compared} files compared");
}

fn difference<A, B>(found: &BTreeMap<Vec<u8>, A>, expected: &BTreeMap<Vec<u8>, B>) -> String {
    let shown = |names: Vec<&Vec<u8>>| names.iter().map(|n| String::from_utf8_lossy(n)).collect::<Vec<_>>().join(", ");
    let missing = expected.keys().filter(|name| !found.contains_key(*name)).take(10).collect();
    let further = found.keys().filter(|name| !expected.contains_key(*name)).take(10).collect();
    format!("missing: {}; further: {}", shown(missing), shown(further))
}

fn seen(fs: &dyn FileSystem, id: FileId) -> Seen {
    let metadata = fs.metadata(id).unwrap();
    let content = match metadata.kind {
        Kind::File => digest(&open(fs, id).unwrap(), u64::MAX).unwrap().into_bytes(),
        Kind::Symlink => fs.link_target(id).unwrap(),
        _ => Vec::new(),
    };
    let xattrs = fs.xattrs(id).unwrap().into_iter().map(|Xattr { name, value }| (name, value)).collect();
    Seen { inode: id.number, metadata, content, xattrs }
}

fn of_kernel(path: &Path) -> Seen {
    let stat = fs::symlink_metadata(path).unwrap();
    let kind = match stat.file_type() {
        t if t.is_dir() => Kind::Dir,
        t if t.is_file() => Kind::File,
        t if t.is_symlink() => Kind::Symlink,
        t if t.is_fifo() => Kind::Fifo,
        t if t.is_char_device() => Kind::CharDevice,
        t if t.is_block_device() => Kind::BlockDevice,
        _ => Kind::Socket,
    };
    let content = match kind {
        Kind::File => digest(&blockdev::file::HostFile::open(path).unwrap(), u64::MAX).unwrap().into_bytes(),
        Kind::Symlink => fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec(),
        _ => Vec::new(),
    };
    let more = statx(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).unwrap();
    let time = |seconds, nanos: i64| Time { seconds, nanos: nanos as u32 };
    let metadata = Metadata {
        kind,
        permissions: stat.mode() & 0o7777,
        nlink: stat.nlink() as u32,
        uid: stat.uid(),
        gid: stat.gid(),
        rdev: (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev())),
        size: stat.len(),
        allocated: stat.blocks() * 512,
        accessed: time(stat.atime(), stat.atime_nsec()),
        modified: time(stat.mtime(), stat.mtime_nsec()),
        changed: time(stat.ctime(), stat.ctime_nsec()),
        created: Some(Time { seconds: more.stx_btime.tv_sec, nanos: more.stx_btime.tv_nsec }),
    };
    Seen { inode: stat.ino(), metadata, content, xattrs: xattrs(path).unwrap() }
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0; 64 << 10];
    let n = rustix::fs::llistxattr(path, &mut list[..])?;
    let names = list[..n].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    // The kernel shows ACLs to root in both forms.
    let names = names.filter(|name| !name.starts_with(b"trusted.SGI_ACL_"));
    let mut all = BTreeMap::new();
    for name in names {
        let mut value = vec![0; 64 << 10];
        let n = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(n);
        all.insert(name.to_vec(), value);
    }
    Ok(all)
}
