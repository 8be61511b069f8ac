//! Compares a folder with a manifest: everything that is in it, nothing that is not.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use base64ct::{Base64, Encoding};
use sha2::{Digest, Sha256};

use crate::{case::Entry, is_root};

/// Something that is not as it was backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path as in the manifest.
    pub path: Vec<u8>,
    /// What differs.
    pub what: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.escape_ascii(), self.what)
    }
}

/// What there is to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Restored: devices may be missing, and owners differ, unless this is root.
    Restored,
    /// The mounted tree: everything is there for everybody.
    Mounted,
}

/// Where an absolute path of a manifest lies under `root`.
#[must_use]
pub fn under(root: &Path, path: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
}

/// SHA-256 of a file's content, in hexadecimal.
///
/// # Errors
///
/// When it cannot be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => break Ok(digest.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => digest.update(&piece[..n]),
        }
    }
}

/// All differences between `wanted` and the folder `real`.
///
/// # Panics
///
/// When `real` cannot be walked.
#[must_use]
pub fn differences(wanted: &[Entry], real: &Path, what: What) -> Vec<Difference> {
    let mut found = Vec::new();
    for entry in wanted.iter().filter(|e| e.text("type") != "socket") {
        let faults = of_entry(entry, &under(real, &entry.path), what);
        found.extend(faults.into_iter().map(|what| Difference { path: entry.path.clone(), what }));
    }
    found.extend(surplus(wanted, real));
    found.extend(links(wanted, real));
    found
}

fn of_entry(entry: &Entry, path: &Path, what: What) -> Vec<String> {
    let (kind, facts) = (entry.text("type"), &entry.facts);
    let device = matches!(kind, "blockdev" | "chardev") && facts.get("rdev").is_some();
    let all = what == What::Mounted || is_root();
    if device && !all {
        return Vec::new();
    }
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) => return vec![e.to_string()],
    };
    let mut faults = Vec::new();
    let mut check = |what: &str, wanted: String, real: String| {
        if wanted != real {
            faults.push(format!("{what} {real}, wanted {wanted}"));
        }
    };
    if let Some(mode) = facts["mode"].as_str() {
        check("mode", mode.to_owned(), format!("{:06o}", meta.mode()));
    }
    if let (Some(uid), Some(gid), true) = (facts["uid"].as_u64(), facts["gid"].as_u64(), all) {
        check("owner", format!("{uid}:{gid}"), format!("{}:{}", meta.uid(), meta.gid()));
    }
    if let Some(mtime) = facts["mtime"].as_i64() {
        check("mtime", mtime.to_string(), meta.mtime().to_string());
    }
    if kind == "file" {
        let size = facts["size"].as_u64().expect("a file has a size");
        check("size", size.to_string(), meta.len().to_string());
    }
    if let Some(wanted) = facts["sha256"].as_str() {
        let readable = !meta.file_type().is_fifo();
        let real = if readable { sha256(path) } else { Err(io::Error::other("a fifo")) };
        check("sha256", wanted.to_owned(), real.unwrap_or_else(|e| e.to_string()));
    }
    if let Some(target) = entry.target() {
        let real = fs::read_link(path).map(|t| t.as_os_str().as_bytes().escape_ascii().to_string());
        check("target", target.escape_ascii().to_string(), real.unwrap_or_else(|e| e.to_string()));
    }
    if let Some(rdev) = facts.get("rdev") {
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        check("rdev", rdev.to_string(), format!("[{major},{minor}]"));
    }
    for (name, value) in facts["xattrs"].as_object().into_iter().flatten() {
        if what == What::Restored && !is_root() && ["trusted.", "security."].iter().any(|p| name.starts_with(p)) {
            continue;
        }
        let wanted = value.as_str().expect("an attribute's value is text");
        check(&format!("xattr {name}"), wanted.to_owned(), xattr(path, name).unwrap_or_else(|e| e.to_string()));
    }
    faults
}

fn xattr(path: &Path, name: &str) -> rustix::io::Result<String> {
    let mut value = vec![0; 64 << 10];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
    Ok(Base64::encode_string(&value[..len]))
}

/// Everything under `real`, as absolute paths like those of a manifest.
///
/// # Panics
///
/// When it cannot be walked.
#[must_use]
pub fn walk(real: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut below = vec![real.to_path_buf()];
    while let Some(folder) = below.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let entry = entry.expect("a folder's entry");
            let path = entry.path();
            found.push(path.as_os_str().as_bytes()[real.as_os_str().len()..].to_vec());
            if entry.file_type().expect("an entry's type").is_dir() {
                below.push(path);
            }
        }
    }
    found
}

/// What is there and should not be.
fn surplus(wanted: &[Entry], real: &Path) -> Vec<Difference> {
    let mut known = HashSet::new();
    for entry in wanted {
        let slashes = entry.path.iter().enumerate().filter(|(n, b)| **b == b'/' && *n > 0);
        known.extend(slashes.map(|(n, _)| &entry.path[..n]));
        known.insert(&entry.path[..]);
    }
    let surplus = walk(real).into_iter().filter(|p| !known.contains(&p[..]));
    surplus.map(|path| Difference { path, what: "it should not be there".to_owned() }).collect()
}

/// Hard links that are none.
fn links(wanted: &[Entry], real: &Path) -> Vec<Difference> {
    let mut groups: BTreeMap<u64, Vec<&Entry>> = BTreeMap::new();
    for entry in wanted.iter().filter(|e| e.text("type") != "socket") {
        if let Some(group) = entry.facts["link_group"].as_u64() {
            groups.entry(group).or_default().push(entry);
        }
    }
    let mut found = Vec::new();
    for group in groups.into_values() {
        let inodes = group.iter().filter_map(|e| Some(fs::symlink_metadata(under(real, &e.path)).ok()?.ino()));
        let inodes: BTreeSet<_> = inodes.collect();
        if inodes.len() > 1 {
            let what = format!("{} files where {} names of one are wanted", inodes.len(), group.len());
            found.push(Difference { path: group[0].path.clone(), what });
        }
    }
    found
}
