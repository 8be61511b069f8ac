//! Version 4, which newer kernels do not mount: a volume that a guest with an older one crashed with, and attributes as
//! the tools of XFS write them.
//!
//! `data/version4-dirty.img.zst` is a volume of 32 MiB (`mkfs.xfs --unsupported -m crc=0 -n ftype=0 -i size=256`) in
//! which a kernel 6.12 made, changed and deleted files until the log of 3 MiB had gone round, and was then switched off.
//! `data/version4-dirty.tsv` is what it showed before: type, permissions, owner, group, links, size, changes of content
//! and of metadata, device, inode, digest or target, path.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

use guestfs::{FileId, FileSystem, Kind};

use crate::{
    common::{Expect, digest, entries, filesystem, flip_metadata, flip_runs, in_memory, lab, open},
    harmed::open_xfs,
};

fn image() -> Vec<u8> {
    zstd::decode_all(&include_bytes!("data/version4-dirty.img.zst")[..]).unwrap()
}

/// All files by path.
fn tree(fs: &dyn FileSystem) -> BTreeMap<String, FileId> {
    let mut all = BTreeMap::from([(".".to_owned(), fs.root())]);
    let mut todo = vec![(".".to_owned(), fs.root())];
    while let Some((path, dir)) = todo.pop() {
        for entry in entries(fs, dir).unwrap() {
            assert_eq!(fs.lookup(dir, &entry.name).unwrap(), Some(entry.id));
            let path = format!("{path}/{}", String::from_utf8(entry.name).unwrap());
            if entry.kind == Kind::Dir {
                todo.push((path.clone(), entry.id));
            }
            all.insert(path, entry.id);
        }
    }
    all
}

/// A line of the manifest.
fn line(fs: &dyn FileSystem, path: &str, id: FileId) -> String {
    let m = fs.metadata(id).unwrap();
    let (kind, content) = match m.kind {
        Kind::Dir => ("directory", "-".to_owned()),
        Kind::File if m.size == 0 => ("regular empty file", digest(&open(fs, id).unwrap(), u64::MAX).unwrap()),
        Kind::File => ("regular file", digest(&open(fs, id).unwrap(), u64::MAX).unwrap()),
        Kind::Symlink => ("symbolic link", String::from_utf8(fs.link_target(id).unwrap()).unwrap()),
        Kind::Fifo => ("fifo", "-".to_owned()),
        Kind::CharDevice => ("character special file", "-".to_owned()),
        Kind::BlockDevice => ("block special file", "-".to_owned()),
        Kind::Socket => ("socket", "-".to_owned()),
    };
    format!(
        "{kind}\t{:o}\t{}\t{}\t{}\t{}\t{}\t{}\t{:x}\t{:x}\t{}\t{content}\t{path}",
        m.permissions,
        m.uid,
        m.gid,
        m.nlink,
        m.size,
        m.modified.seconds,
        m.changed.seconds,
        m.rdev.0,
        m.rdev.1,
        id.number
    )
}

#[test]
fn after_a_crash() {
    let fs = filesystem(&[in_memory(image())]);
    assert!(fs.info().notes[0].contains("its log was replayed in memory"), "{:?}", fs.info().notes);
    let found: BTreeSet<_> = tree(fs.as_ref()).iter().map(|(path, id)| line(fs.as_ref(), path, *id)).collect();
    let expected = include_str!("data/version4-dirty.tsv").lines().map(str::to_owned).collect();
    let wrong: Vec<_> = found.symmetric_difference(&expected).take(10).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(found.len() > 400);
}

/// Attributes in the inode, in one block, in many, and large ones.
#[test]
fn attributes() {
    let folder = tempfile::tempdir().unwrap();
    let (image, proto) = (folder.path().join("image"), folder.path().join("proto"));
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    std::fs::write(&proto, "/none\n0 0\nd--755 0 0\nfew ---644 0 0 /dev/null\nmany ---644 0 0 /dev/null\n$\n").unwrap();
    let mut mkfs = Command::new("mkfs.xfs");
    let mkfs = mkfs.args(["--unsupported", "-qf", "-m", "crc=0", "-p"]).arg(&proto).arg(&image).output();
    if !mkfs.is_ok_and(|output| output.status.success()) {
        return println!("SKIPPED: mkfs.xfs makes no volumes of version 4");
    }
    let ids = |fs: &dyn FileSystem| ["few", "many"].map(|name| fs.lookup(fs.root(), name.as_bytes()).unwrap().unwrap());
    let [few, many] = ids(filesystem(&[crate::common::device(&image)]).as_ref());

    let mut expected = BTreeMap::from([(few, BTreeMap::new()), (many, BTreeMap::new())]);
    let mut script = String::new();
    let mut set = |file: FileId, space: &str, name: String, len: usize| {
        let flag = BTreeMap::from([("user", "-u"), ("trusted", "-r"), ("security", "-s")])[space];
        script += &format!("inode {}\nattr_set {flag} -v {len} {name}\n", file.number);
        expected.get_mut(&file).unwrap().insert(format!("{space}.{name}").into_bytes(), vec![b'v'; len]);
    };
    set(few, "user", "a".to_owned(), 10);
    set(few, "trusted", "a".to_owned(), 20);
    set(few, "security", "a".to_owned(), 30);
    for n in 0..300 {
        set(many, "user", format!("{n}-{}", "name".repeat(n % 40)), n % 250 + 1);
    }
    for len in [3000, 4096, 10_000, 65_536] {
        set(many, "trusted", format!("of-{len}"), len);
    }
    let mut db =
        Command::new("xfs_db").arg("-x").arg(&image).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    db.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(db.wait().unwrap().success());

    let fs = filesystem(&[crate::common::device(&image)]);
    for (file, expected) in expected {
        let found: BTreeMap<_, _> = fs.xattrs(file).unwrap().into_iter().map(|x| (x.name, x.value)).collect();
        let names = |of: &BTreeMap<Vec<u8>, Vec<u8>>| of.iter().map(|(n, v)| (n.clone(), v.len())).collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected));
        assert!(found == expected, "values differ");
    }
}

/// Names are hashed in lower case, and found as they are spelled.
#[test]
fn names_without_case() {
    let folder = tempfile::tempdir().unwrap();
    let (image, proto) = (folder.path().join("image"), folder.path().join("proto"));
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let names: Vec<_> = (0..600).map(|n| format!("{}Name{n}", if n % 2 == 0 { "Some" } else { "SOME" })).collect();
    let lines: String = names.iter().map(|name| format!("{name} ---644 0 0 /dev/null\n")).collect();
    std::fs::write(&proto, format!("/none\n0 0\nd--755 0 0\n{lines}$\n")).unwrap();
    let mut mkfs = Command::new("mkfs.xfs");
    let mkfs = mkfs.args(["--unsupported", "-qf", "-n", "version=ci", "-p"]).arg(&proto).arg(&image).output();
    if !mkfs.is_ok_and(|output| output.status.success()) {
        return println!("SKIPPED: mkfs.xfs makes no volumes without case");
    }
    let fs = filesystem(&[crate::common::device(&image)]);
    assert_eq!(entries(fs.as_ref(), fs.root()).unwrap().len(), names.len());
    for name in names {
        assert!(fs.lookup(fs.root(), name.as_bytes()).unwrap().is_some(), "{name}");
        assert_eq!(fs.lookup(fs.root(), name.to_lowercase().as_bytes()).unwrap(), None);
    }
}

#[test]
fn harmed() {
    flip_metadata(&in_memory(image()), &open_xfs, flip_runs(), 1000, Expect::Harmless);
    let Some(path) = lab("vol/xfs-v4.raw") else { return };
    flip_metadata(&crate::common::device(&path), &open_xfs, flip_runs(), 400, Expect::Harmless);
}
