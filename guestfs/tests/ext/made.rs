//! Volumes of every shape that `mkfs` offers, filled by the kernel with all that is odd, against what it says of them.

use std::{
    ffi::OsStr,
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, PermissionsExt, chown, lchown, symlink},
    },
    path::Path,
    process::Command,
};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, Timespec, Timestamps, XattrFlags, fallocate, lsetxattr, makedev,
    mknodat, utimensat,
};

use crate::{
    common::{Random, assert_manifest, device, digest, entries, filesystem},
    kernel::{Mount, assert_same, formatted, run},
    real::is_extra,
};

/// Shapes: features that change how anything is stored, each at least once, with and without the others.
const SHAPES: [(&str, &str); 12] = [
    ("first revision", "-r 0 -b 1024 -O none"),
    ("ext2, small inodes", "-t ext2 -b 1024 -I 128"),
    ("ext2, no types in entries, linear", "-t ext2 -b 1024 -O ^filetype,^dir_index,^ext_attr"),
    ("ext3", "-t ext3 -b 2048 -J size=4"),
    ("CRC-16 of groups", "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,64bit,^flex_bg"),
    ("CRC-16 of groups without 64 bits", "-t ext4 -O ^metadata_csum,uninit_bg,^64bit"),
    ("descriptors among groups", "-t ext4 -b 1024 -g 256 -O meta_bg,^resize_inode,^flex_bg"),
    ("values in inodes", "-t ext4 -b 1024 -I 256 -O ea_inode,inline_data,metadata_csum_seed,large_dir"),
    ("values in inodes, no checksums", "-t ext4 -O ea_inode,^metadata_csum"),
    ("two copies", "-t ext4 -b 1024 -I 1024 -O sparse_super2,^resize_inode,inline_data"),
    ("clusters", "-t ext4 -b 1024 -C 8192 -O bigalloc,^has_journal"),
    ("new ones", "-t ext4 -O orphan_file,fast_commit,verity,stable_inodes"),
];

#[test]
fn all_shapes_are_as_the_kernel_says() {
    for (name, options) in SHAPES {
        let folder = tempfile::tempdir().unwrap();
        let image = formatted(folder.path(), 48, options);
        // Another hash than the usual one, where that is not asked for: each of them in some shape.
        if let Some(hash) = [("ext3", "tea"), ("clusters", "legacy")].iter().find(|(shape, _)| *shape == name) {
            run("tune2fs", &["-E", &format!("hash_alg={}", hash.1), image.to_str().unwrap()]);
        }
        let Some(mount) = Mount::new(&image, folder.path(), "user_xattr") else { continue };
        fill(mount.path());
        drop(mount);
        run("e2fsck", &["-fn", image.to_str().unwrap()]);
        let Some(mount) = Mount::new(&image, folder.path(), "ro,noload") else { continue };
        let fs = filesystem(&[device(&image)]);
        let count = assert_same(fs.as_ref(), mount.path());
        assert!(count > 4000, "{name}: {count} files");
        assert!(fs.info().notes.is_empty(), "{name}: {:?}", fs.info().notes);
        let known = rustix::fs::statvfs(mount.path()).unwrap();
        let usage = fs.usage().unwrap();
        assert_eq!(usage.free, known.f_bfree * known.f_frsize, "{name}: free bytes");
        assert_eq!((usage.files, usage.files_free), (Some(known.f_files), Some(known.f_ffree)), "{name}");
        let (total, known) = (usage.total as f64, (known.f_blocks * known.f_frsize) as f64);
        assert!((total / known - 1.0).abs() < 0.1, "{name}: {total} bytes and not {known}");
        println!("{name}: {count} files");
    }
}

/// Shapes that a kernel may not mount, filled by `mkfs` itself: blocks larger than its pages, features that it lacks.
const UNMOUNTED: [&str; 7] = [
    "-t ext2 -b 8192",
    "-t ext4 -b 16384 -O inline_data -I 1024",
    "-t ext4 -b 32768 -O ^metadata_csum",
    "-t ext4 -b 65536",
    "-t ext4 -b 65536 -C 262144 -O bigalloc,^has_journal",
    "-t ext4 -b 65536 -I 4096 -O inline_data,^metadata_csum",
    "-t ext4 -b 4096 -O quota,project,mmp,casefold,encrypt,large_dir",
];

#[test]
fn blocks_of_all_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    let mut random = Random(2);
    for len in [0, 1, 60, 61, 300, 4000, 70_000, 300_000] {
        fs::write(source.join(format!("{len}")), (0..len).map(|_| random.next() as u8).collect::<Vec<_>>()).unwrap();
    }
    // (A hole at the end is not for `mkfs`, which forgets about it.)
    let holes = fs::File::create(source.join("holes")).unwrap();
    for at in [0, 500_000, 1_700_000, 20 << 20] {
        holes.write_all_at(b"something", at).unwrap();
    }
    symlink("x".repeat(59), source.join("short")).unwrap();
    symlink("x".repeat(1000), source.join("long")).unwrap();
    fs::create_dir(source.join("dir")).unwrap();
    for n in 0..600 {
        fs::write(source.join(format!("dir/{n} {}", "n".repeat(150))), "").unwrap();
    }
    let manifest = manifest(&source);
    for options in UNMOUNTED {
        let image = formatted(folder.path(), 256, &format!("{options} -d {}", source.display()));
        let fs = filesystem(&[device(&image)]);
        println!("{options}: blocks of {}", fs.info().block_size);
        assert_manifest(fs.as_ref(), &manifest, is_extra);
        for entry in entries(fs.as_ref(), fs.root()).unwrap() {
            assert_eq!(fs.lookup(fs.root(), &entry.name).unwrap(), Some(entry.id));
        }
    }
}

/// A manifest of what is below `root`.
pub fn manifest(root: &Path) -> String {
    let (mut lines, mut todo) = (String::new(), vec![root.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let (kind, size, what) = if kind.is_dir() {
                todo.push(path.clone());
                ('d', 0, "-".to_owned())
            } else if kind.is_symlink() {
                ('l', 0, fs::read_link(&path).unwrap().to_str().unwrap().to_owned())
            } else {
                let content = fs::read(&path).unwrap();
                ('f', content.len(), digest(&content, u64::MAX).unwrap())
            };
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            lines += &format!("{kind}\t{size}\t{what}\t{name}\n");
        }
    }
    lines
}

/// A directory without regard to case: the tree that `e2fsck` builds orders names by what they fold to, and they are
/// still found exactly as they are spelled, and only so.
#[test]
fn casefolded_directories() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("dir")).unwrap();
    for n in 0..500 {
        fs::write(source.join(format!("dir/A name with Capitals {n}")), "").unwrap();
        fs::write(source.join(format!("dir/ÜMLÄUTE {n}")), "").unwrap();
    }
    let image = formatted(folder.path(), 16, &format!("-t ext4 -b 1024 -O casefold -d {}", source.display()));
    // The flag of the directory; its map is one of extents.
    debugfs(&image, "set_inode_field /dir flags 0x40080000");
    build_indexes(&image);
    let fs = filesystem(&[device(&image)]);
    let dir = fs.lookup(fs.root(), b"dir").unwrap().unwrap();
    let flags = debugfs(&image, "stat /dir");
    assert!(flags.contains("Flags: 0x40081000"), "{flags}");
    let listed = entries(fs.as_ref(), dir).unwrap();
    assert_eq!(listed.len(), 1000);
    for entry in listed {
        assert_eq!(fs.lookup(dir, &entry.name).unwrap(), Some(entry.id), "{}", String::from_utf8_lossy(&entry.name));
        assert_eq!(fs.lookup(dir, &entry.name.to_ascii_lowercase()).unwrap(), None);
    }
}

/// Runs a command of `debugfs` that may change `image`.
pub fn debugfs(image: &Path, command: &str) -> String {
    run("debugfs", &["-w", "-R", command, image.to_str().unwrap()])
}

/// Lets `e2fsck` build the hash trees of all directories.
pub fn build_indexes(image: &Path) {
    let status =
        Command::new("e2fsck").args(["-fyD"]).arg(image).env("PATH", "/usr/sbin:/sbin").output().unwrap().status;
    // 1: something was changed.
    assert!(matches!(status.code(), Some(0 | 1)), "{status}");
}

/// Makes what is odd below `root`. What a shape cannot hold is left out.
fn fill(root: &Path) {
    let mut random = Random(1);
    let mut bytes = |len: usize| (0..len).map(|_| random.next() as u8).collect::<Vec<_>>();
    for len in [0, 1, 59, 60, 61, 100, 155, 156, 157, 600, 900, 5000, 100_000, 700_000] {
        fs::write(root.join(format!("{len} bytes")), bytes(len)).unwrap();
    }
    sparse(root, &bytes(100));
    links(root);
    specials(root);
    times(root);
    attributes(root, &bytes(60_000));
    names(root);
}

/// Holes, at the start, in the middle, at the end, on all levels of a map of blocks; and what was never written.
fn sparse(root: &Path, bytes: &[u8]) {
    let make = |name: &str, places: &[u64], size: u64| {
        let mut file = fs::File::create(root.join(name)).unwrap();
        for place in places {
            file.seek(SeekFrom::Start(*place)).unwrap();
            file.write_all(bytes).unwrap();
        }
        file.set_len(size).unwrap();
    };
    make("holes on all levels", &[0, 12 << 10, 300_000, 5 << 20, 70 << 20, (80 << 20) + 1000], 90 << 20);
    make("nothing but holes", &[], 3_000_000);
    // More extents than the inode, and than two leaves of 1 KiB hold.
    let many: Vec<_> = (0..300).map(|n| n * 8192 + 100).collect();
    make("many extents", &many, 300 * 8192);
    let file = fs::File::create(root.join("never written")).unwrap();
    if fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).is_ok() {
        file.write_all_at(bytes, 500_000).unwrap();
        let _ = fallocate(&file, FallocateFlags::KEEP_SIZE, 2 << 20, 1 << 20);
    }
}

fn links(root: &Path) {
    for len in [1, 30, 58, 59, 60, 61, 100, 500, 1000, 2000, 4000] {
        let target: String = (0..len).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
        // A block of 1 KiB holds no longer one.
        if symlink(&target, root.join(format!("link of {len}"))).is_err() {
            assert!(len >= 1000);
        }
    }
    symlink("with an attribute", root.join("link with an attribute")).unwrap();
    let _ = lsetxattr(root.join("link with an attribute"), "trusted.of-a-link", &[7; 300], XattrFlags::empty());
    fs::hard_link(root.join("900 bytes"), root.join("900 bytes, second name")).unwrap();
}

fn specials(root: &Path) {
    let make = |name: &str, kind, major, minor| {
        let mode = Mode::from_raw_mode(0o640);
        mknodat(CWD, root.join(name), kind, mode, makedev(major, minor)).unwrap();
    };
    make("fifo", FileType::Fifo, 0, 0);
    make("socket", FileType::Socket, 0, 0);
    make("null", FileType::CharacterDevice, 1, 3);
    make("large numbers", FileType::CharacterDevice, 300, 70_000);
    make("largest numbers", FileType::BlockDevice, 0xfff, 0xf_ffff);
    make("sda1", FileType::BlockDevice, 8, 1);
    make("no numbers", FileType::BlockDevice, 0, 0);
    for mode in [0, 0o111, 0o4755, 0o2755, 0o1777, 0o7777] {
        let path = root.join(format!("mode {mode:o}"));
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for (n, (uid, gid)) in [(1, 2), (65_535, 65_536), (100_000, 4_000_000_000)].into_iter().enumerate() {
        let path = root.join(format!("owner {n}"));
        fs::write(&path, "x").unwrap();
        chown(&path, Some(uid), Some(gid)).unwrap();
        symlink("x", root.join(format!("link of owner {n}"))).unwrap();
        lchown(root.join(format!("link of owner {n}")), Some(gid), Some(uid)).unwrap();
    }
}

/// Times before 1970, around 2038, at the end of each period, and at the last that can be.
fn times(root: &Path) {
    let seconds = [
        -(1 << 31),
        -1_000_000,
        -1,
        0,
        1,
        (1 << 31) - 1,
        1 << 31,
        (1_i64 << 32) + 5,
        (3_i64 << 32) - 1,
        (3_i64 << 32) + (1 << 31) - 1,
    ];
    for (n, tv_sec) in seconds.into_iter().enumerate() {
        let path = root.join(format!("time {n}"));
        fs::write(&path, "x").unwrap();
        let at = |tv_nsec| Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: at(999_999_999), last_modification: at(1) };
        utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
    }
}

fn attributes(root: &Path, bytes: &[u8]) {
    let set = |name: &str, attribute: &str, value: &[u8]| {
        let _ = lsetxattr(root.join(name), attribute, value, XattrFlags::empty());
    };
    for name in ["few", "many", "in a block", "shared", "shared as well", "in an inode", "acl"] {
        fs::write(root.join(name), "content").unwrap();
    }
    fs::create_dir(root.join("directory")).unwrap();
    for name in ["few", "directory"] {
        set(name, "user.a", b"1");
        set(name, "user.empty", b"");
        set(name, "trusted.b", b"\0binary\xff");
        set(name, "security.c", b"label");
    }
    for n in 0..12 {
        set("many", &format!("user.number {n}"), &bytes[..n * 5]);
    }
    set("in a block", "user.large", &bytes[..700]);
    set("shared", "user.same", &bytes[..600]);
    set("shared as well", "user.same", &bytes[..600]);
    set("in an inode", "user.huge", bytes);
    set("in an inode", "user.huge as well", &bytes[..20_000]);
    set("in an inode", "user.small", &bytes[..20]);
    // Version; then tag, permissions, id.
    let acl = |entries: &[(u16, u16, u32)]| {
        let mut value = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    };
    const NONE: u32 = u32::MAX;
    let full = acl(&[
        (1, 7, NONE),
        (2, 4, 1000),
        (2, 6, 3_000_000_000),
        (4, 5, NONE),
        (8, 5, 100),
        (16, 7, NONE),
        (32, 0, NONE),
    ]);
    set("acl", "system.posix_acl_access", &full);
    set("directory", "system.posix_acl_default", &full);
    set("directory", "system.posix_acl_access", &full);
    fs::write(root.join("directory/inherits"), "x").unwrap();
    fs::create_dir(root.join("directory/inherits as well")).unwrap();
}

/// Names of all bytes and lengths, and directories of all sizes, with room where names were taken away.
fn names(root: &Path) {
    let odd = root.join("odd names");
    fs::create_dir(&odd).unwrap();
    for len in [1, 2, 3, 4, 5, 30, 31, 32, 33, 63, 64, 65, 254, 255] {
        fs::write(odd.join("n".repeat(len)), "").unwrap();
        fs::write(odd.join(OsStr::from_bytes(&b"\xff\xc3\xa4".repeat(85)[..len])), "").unwrap();
    }
    for name in ["new\nline", " ", "ümläut", "日本語", "\\", "\u{1}"] {
        fs::create_dir(odd.join(name)).unwrap();
    }
    for (name, count) in [("empty", 0), ("small", 20), ("large", 4500)] {
        let dir = root.join(name);
        fs::create_dir(&dir).unwrap();
        for n in 0..count {
            fs::hard_link(root.join("1 bytes"), dir.join(format!("{n} a name of some length é {}", n * 7919))).unwrap();
        }
        for n in (0..count).step_by(10) {
            fs::remove_file(dir.join(format!("{n} a name of some length é {}", n * 7919))).unwrap();
        }
    }
    let mut deep = root.join("deep");
    for _ in 0..40 {
        fs::create_dir(&deep).unwrap();
        deep.push("deeper");
    }
}
