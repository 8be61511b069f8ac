//! A tree with every kind of file, directory, attribute and time, written through the kernel.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, PermissionsExt, chown, symlink},
        },
    },
    path::Path,
};

use rustix::fs::{
    AtFlags, CWD, Dev, FallocateFlags, FileType, Mode, Timespec, Timestamps, XattrFlags, fallocate, lsetxattr, mknodat,
    utimensat,
};

use crate::common::Random;

/// Bytes that are no pattern.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(len).collect()
}

/// Writes all of it under `root`. `scale` says how large directories and maps of extents become.
pub fn fill(root: &Path, scale: usize) {
    files(root, scale);
    specials(root);
    links(root);
    attributes(root);
    directories(root, scale);
    times(root);
}

fn files(root: &Path, scale: usize) {
    fs::create_dir(root.join("files")).unwrap();
    let path = |name: &str| root.join("files").join(name);
    fs::write(path("empty"), b"").unwrap();
    fs::write(path("small"), b"small\n").unwrap();
    fs::write(path("large"), noise(1, 3 << 20)).unwrap();
    let file = File::create(path("sparse")).unwrap();
    for at in [0, 1 << 20, (17 << 20) + 12345, 3 << 40] {
        file.write_all_at(&noise(at, 70_000), at).unwrap();
    }
    file.set_len(1 << 50).unwrap();
    file.set_len(20 << 20).unwrap();
    // Allocated and never written; partly written; beyond the end.
    let file = File::create(path("unwritten")).unwrap();
    fallocate(file.as_fd(), FallocateFlags::empty(), 0, 1 << 20).unwrap();
    file.write_all_at(&noise(2, 10_000), 300_000).unwrap();
    fallocate(file.as_fd(), FallocateFlags::KEEP_SIZE, 2 << 20, 1 << 20).unwrap();
    let mut file = File::create(path("punched")).unwrap();
    file.write_all(&noise(3, 1 << 20)).unwrap();
    fallocate(file.as_fd(), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 65536, 200_000).unwrap();
    // So many extents that they need a tree.
    let mut file = File::create(path("scattered")).unwrap();
    for n in 0..scale as u64 {
        file.seek(SeekFrom::Start(n * 16384)).unwrap();
        file.write_all(&noise(n, 4096)).unwrap();
    }
    if let Ok(shared) = File::create(path("shared")) {
        let _ = rustix::fs::ioctl_ficlone(shared.as_fd(), File::open(path("large")).unwrap().as_fd());
        shared.write_all_at(b"its own", 1 << 20).unwrap();
    }
    fs::write(path("setuid"), b"#!").unwrap();
    chown(path("setuid"), Some(70_000), Some(u32::MAX - 1)).unwrap();
    fs::set_permissions(path("setuid"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::hard_link(path("small"), path("small-too")).unwrap();
}

fn specials(root: &Path) {
    fs::create_dir(root.join("special")).unwrap();
    let make = |name: &str, kind, device| {
        mknodat(CWD, root.join("special").join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    make("fifo", FileType::Fifo, 0);
    make("socket", FileType::Socket, 0);
    make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("whiteout", FileType::CharacterDevice, 0);
    make("block", FileType::BlockDevice, rustix::fs::makedev(259, 70_000) as Dev);
}

fn links(root: &Path) {
    fs::create_dir(root.join("links")).unwrap();
    for len in [1, 50, 335, 336, 337, 500, 1000, 1023] {
        let target: String = "../0123456789abcdef".chars().cycle().take(len).collect();
        symlink(target, root.join(format!("links/to-{len}"))).unwrap();
    }
}

/// An ACL as the kernel's attribute has it.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

fn attributes(root: &Path) {
    fs::create_dir(root.join("attributes")).unwrap();
    let set = |file: &str, name: &str, value: &[u8]| {
        let path = root.join("attributes").join(file);
        if !path.exists() {
            fs::write(&path, file).unwrap();
        }
        lsetxattr(&path, name, value, XattrFlags::empty()).unwrap();
    };
    set("few", "user.empty", b"");
    set("few", "user.one", b"1");
    set("few", "trusted.one", b"other one");
    set("few", "security.one", b"third one");
    for n in 0..20 {
        set("block", &format!("user.number-{n}"), &noise(n, 60));
    }
    for n in 0..400_u64 {
        set("tree", &format!("user.{}-{n}", "name".repeat(n as usize % 50)), &noise(n, n as usize % 300));
    }
    for len in [2000, 4000, 5000, 20_000, 65_536] {
        set("large", &format!("user.of-{len}"), &noise(len as u64, len));
    }
    for n in 0..300_u64 {
        set("deleted", &format!("user.{n}"), &noise(n, 100));
    }
    for n in 0..290 {
        rustix::fs::lremovexattr(root.join("attributes/deleted"), format!("user.{n}")).unwrap();
    }
    let none = u32::MAX;
    let access = acl(&[(1, 6, none), (2, 4, 1000), (4, 4, none), (8, 5, 2000), (0x10, 7, none), (0x20, 4, none)]);
    set("acl", "system.posix_acl_access", &access);
    fs::create_dir(root.join("attributes/dir")).unwrap();
    set("dir", "system.posix_acl_access", &access);
    set("dir", "system.posix_acl_default", &access);
    symlink("nowhere", root.join("attributes/link")).unwrap();
    lsetxattr(root.join("attributes/link"), "trusted.link", b"of a link", XattrFlags::empty()).unwrap();
}

fn directories(root: &Path, scale: usize) {
    // The forms by size; and one that was large, with holes where blocks were.
    for count in [0, 1, 5, 40, 60, 200, scale] {
        let dir = root.join(format!("dirs/{count}"));
        fs::create_dir_all(&dir).unwrap();
        for n in 0..count {
            let name = format!("{n}-{}", "entry".repeat(n % 9));
            match n % 50 {
                7 => fs::create_dir(dir.join(name)).unwrap(),
                8 => symlink("x", dir.join(name)).unwrap(),
                _ => drop(File::create(dir.join(name)).unwrap()),
            }
        }
    }
    let dir = root.join("dirs/thinned");
    fs::create_dir(&dir).unwrap();
    let name = |n: usize| dir.join(format!("{n:0100}"));
    for n in 0..scale {
        File::create(name(n)).unwrap();
    }
    for n in (0..scale).filter(|n| *n > scale / 4 && *n < scale * 3 / 4 || n % 3 == 0) {
        fs::remove_file(name(n)).unwrap();
    }
    // Names of one hash: the lowest bit of a byte and the highest of the next come to the same place.
    let dir = root.join("dirs/colliding");
    fs::create_dir(&dir).unwrap();
    for n in 0..512_u32 {
        let name: Vec<u8> =
            (0..9).flat_map(|bit| if n >> bit & 1 == 0 { [b'b', b'q'] } else { [b'c', b'q' | 0x80] }).collect();
        File::create(dir.join(OsStr::from_bytes(&name))).unwrap();
    }
    let mut deep = root.join("deep");
    for level in 0..30 {
        deep.push(format!("level-{level}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("ümläut-😀"), b"bottom").unwrap();
}

fn times(root: &Path) {
    fs::create_dir(root.join("times")).unwrap();
    let at = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    for (name, seconds, nanos) in [
        ("epoch", 0, 0),
        ("before", -1, 999_999_999),
        ("long-before", -2_147_483_000, 1),
        ("after", 2_147_483_647, 500_000_000),
        ("long-after", 4_294_967_296, 123_456_789),
        ("last", 16_299_260_424, 0),
    ] {
        let path = root.join("times").join(name);
        File::create(&path).unwrap();
        let times = Timestamps { last_access: at(seconds, nanos), last_modification: at(seconds - 1, nanos) };
        utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
    }
}
