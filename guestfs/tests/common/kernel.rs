//! The kernel as the other implementation: all that it shows of a mounted filesystem, compared with what `guestfs` shows.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use blockdev::ReadAt as _;
use guestfs::{FileId, FileSystem, Kind, Metadata, Result, Time, Xattr};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::{digest, entries, open};

/// What is compared of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub inode: u64,
    pub metadata: Metadata,
    /// Target of a link, or digest of the content.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Compares all of `fs` with what the kernel shows at `root`, and looks each entry up; the number of files.
pub fn assert_same(fs: &dyn FileSystem, root: &Path) -> usize {
    assert_same_but(fs, root, &|_, _| {})
}

/// The same but for what `allow` changes in what the kernel shows (the second) before it is compared with the first.
pub fn assert_same_but(fs: &dyn FileSystem, root: &Path, allow: &dyn Fn(&Seen, &mut Seen)) -> usize {
    let compare = |id: FileId, path: &Path| {
        let found = seen(fs, id).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut of_kernel = of_kernel(path);
        allow(&found, &mut of_kernel);
        assert_eq!(found, of_kernel, "{}", path.display());
        found.metadata.kind
    };
    compare(fs.root(), root);
    let (mut todo, mut compared) = (vec![(fs.root(), root.to_owned())], 0);
    while let Some((dir, path)) = todo.pop() {
        let expected = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name().as_bytes().to_vec());
        let expected: BTreeMap<_, _> = expected.map(|name| (name, ())).collect();
        let found = entries(fs, dir).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let names: BTreeMap<_, _> = found.iter().map(|e| (e.name.clone(), e)).collect();
        assert_eq!(names.len(), found.len(), "{}: a name is given twice", path.display());
        assert!(names.keys().eq(expected.keys()), "{}: {}", path.display(), difference(&names, &expected));
        for absent in [&b"no such name"[..], b".", b"..", b"", &[b'x'; 255], &[b'x'; 256]] {
            assert_eq!(fs.lookup(dir, absent).unwrap(), None, "{absent:?} in {}", path.display());
        }
        for (name, entry) in names {
            let path = path.join(OsStr::from_bytes(&name));
            assert_eq!(fs.lookup(dir, &name).unwrap(), Some(entry.id), "{}", path.display());
            let other = [&name, b"~".as_slice()].concat();
            assert_eq!(fs.lookup(dir, &other).unwrap().is_some(), expected.contains_key(&other));
            assert_eq!(entry.kind, compare(entry.id, &path), "{}", path.display());
            if entry.kind == Kind::Dir {
                todo.push((entry.id, path));
            }
            compared += 1;
        }
    }
    println!("{compared} files compared");
    compared
}

fn difference<A, B>(found: &BTreeMap<Vec<u8>, A>, expected: &BTreeMap<Vec<u8>, B>) -> String {
    let shown = |names: Vec<&Vec<u8>>| names.iter().map(|n| String::from_utf8_lossy(n)).collect::<Vec<_>>().join(", ");
    let missing = expected.keys().filter(|name| !found.contains_key(*name)).take(10).collect();
    let further = found.keys().filter(|name| !expected.contains_key(*name)).take(10).collect();
    format!("missing: {}; further: {}", shown(missing), shown(further))
}

fn seen(fs: &dyn FileSystem, id: FileId) -> Result<Seen> {
    let metadata = fs.metadata(id)?;
    let content = match metadata.kind {
        Kind::File => {
            let content = open(fs, id)?;
            assert_eq!(content.size(), metadata.size, "inode {}", id.number);
            digest(&content, u64::MAX)?.into_bytes()
        }
        Kind::Symlink => fs.link_target(id)?,
        kind => {
            assert!(fs.content(id).is_err(), "inode {} is of type {kind:?} and has content", id.number);
            Vec::new()
        }
    };
    let xattrs = fs.xattrs(id)?.into_iter().map(|Xattr { name, value }| (name, value)).collect();
    Ok(Seen { inode: id.number, metadata, content, xattrs })
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
    let born = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).unwrap();
    let is_born = born.stx_mask & StatxFlags::BTIME.bits() != 0;
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
        created: is_born.then_some(Time { seconds: born.stx_btime.tv_sec, nanos: born.stx_btime.tv_nsec }),
    };
    Seen { inode: stat.ino(), metadata, content, xattrs: xattrs(path) }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 64 << 10];
    let n = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let names = list[..n].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    // XFS shows ACLs to root in both forms.
    let names = names.filter(|name| !name.starts_with(b"trusted.SGI_ACL_"));
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let n = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        value.truncate(n);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}
