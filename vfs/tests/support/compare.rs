//! Compares a directory of a real filesystem with the model, attribute by attribute.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt, fs::MetadataExt},
    path::Path,
};

use vfs::node::{Inode, Kind};

use super::{Body, Mem};

/// What is compared besides names, types, contents, permissions and link targets.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub owners: bool,
    pub times: bool,
    pub link_times: bool,
    pub xattrs: bool,
    pub hard_links: bool,
    pub holes: bool,
    pub devices: bool,
    /// Node numbers and link counts as in the model: only in the mount.
    pub numbers: bool,
    /// The topmost directory's own attributes.
    pub root: bool,
}

pub const ALL: Wanted = Wanted {
    owners: true,
    times: true,
    link_times: true,
    xattrs: true,
    hard_links: true,
    holes: true,
    devices: true,
    numbers: false,
    root: true,
};

/// Every difference, one line each.
pub fn differences(model: &Mem, real: &Path, wanted: Wanted) -> Vec<String> {
    let mut found = Vec::new();
    let mut links = HashMap::new();
    compare(model, real, wanted, wanted.root, &mut links, &mut found);
    found
}

fn compare(
    model: &Mem,
    real: &Path,
    wanted: Wanted,
    own: bool,
    links: &mut HashMap<u64, u64>,
    found: &mut Vec<String>,
) {
    let meta = match fs::symlink_metadata(real) {
        Ok(meta) => meta,
        Err(e) => return found.push(format!("{real:?}: {e}")),
    };
    let mut check = |what: &str, expected: String, actual: String| {
        if expected != actual {
            found.push(format!("{real:?}: {what}: expected {expected}, found {actual}"));
        }
    };
    let a = model.attributes().expect("in memory");
    check("type", format!("{:?}", a.kind), format!("{:?}", kind(meta.file_type())));
    if own {
        check("mode", format!("{:o}", a.permissions), format!("{:o}", meta.mode() & 0o7777));
    }
    if wanted.owners && own {
        check("owner", format!("{}:{}", a.uid, a.gid), format!("{}:{}", meta.uid(), meta.gid()));
    }
    if wanted.times && own && (a.kind != Kind::Symlink || wanted.link_times) {
        let time = (meta.mtime(), meta.mtime_nsec() as u32);
        check("mtime", format!("{:?}", (a.mtime.seconds, a.mtime.nanos)), format!("{time:?}"));
    }
    if wanted.numbers {
        check("ino", a.ino.to_string(), meta.ino().to_string());
        check("nlink", a.nlink.to_string(), meta.nlink().to_string());
        check("blocks", a.allocated.div_ceil(512).to_string(), meta.blocks().to_string());
    }
    if wanted.devices && matches!(a.kind, Kind::CharDevice | Kind::BlockDevice) {
        let rdev = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        check("rdev", format!("{:?}", a.rdev), format!("{rdev:?}"));
    }
    if wanted.xattrs && own {
        let expected: BTreeMap<_, _> = model.xattrs.iter().map(|x| (x.name.clone(), x.value.clone())).collect();
        check("xattrs", format!("{expected:?}"), format!("{:?}", xattrs(real)));
    }
    if wanted.hard_links && a.kind == Kind::File && a.nlink > 1 {
        let first = *links.entry(a.ino).or_insert(meta.ino());
        check("linked with", first.to_string(), meta.ino().to_string());
    }
    match &model.body {
        Body::File(content) => {
            let bytes = fs::read(real).unwrap_or_else(|e| e.to_string().into_bytes());
            check("content equal", "true".into(), (bytes == content.expanded()).to_string());
            if wanted.holes && content.holes() {
                let most = content.stored() + 64 * 1024 * 4;
                check("sparse", "true".into(), (meta.blocks() * 512 <= most).to_string());
            }
        }
        Body::Symlink(target) => {
            let read = fs::read_link(real).map(|t| t.as_os_str().as_bytes().to_vec()).unwrap_or_default();
            check("target", format!("{target:?}"), format!("{read:?}"));
        }
        Body::Special => {}
        Body::Dir(entries) => {
            let expected: Vec<_> = entries
                .iter()
                .filter(|(_, m)| wanted.devices || !matches!(m.attributes.kind, Kind::CharDevice | Kind::BlockDevice))
                .collect();
            let mut names: Vec<_> = fs::read_dir(real)
                .map(|d| d.filter_map(Result::ok).map(|e| e.file_name().as_bytes().to_vec()).collect())
                .unwrap_or_default();
            names.sort();
            let listed = expected.iter().map(|(n, _)| n.escape_ascii().to_string()).collect::<Vec<_>>();
            let there = names.iter().map(|n| n.escape_ascii().to_string()).collect::<Vec<_>>();
            check("names", format!("{listed:?}"), format!("{there:?}"));
            for (name, mem) in expected {
                compare(mem, &real.join(OsStr::from_bytes(name)), wanted, true, links, found);
            }
        }
    }
}

fn kind(t: fs::FileType) -> Kind {
    match t {
        t if t.is_dir() => Kind::Dir,
        t if t.is_file() => Kind::File,
        t if t.is_symlink() => Kind::Symlink,
        t if t.is_fifo() => Kind::Fifo,
        t if t.is_socket() => Kind::Socket,
        t if t.is_char_device() => Kind::CharDevice,
        _ => Kind::BlockDevice,
    }
}

pub fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let n = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    names.truncate(n);
    let names = names.split(|b| *b == 0).filter(|n| !n.is_empty() && !n.starts_with(b"security."));
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let n = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap_or(0);
            value.truncate(n);
            (name.to_vec(), value)
        })
        .collect()
}
