//! What volumes hold: filesystems made by the real `mkfs`, with labels and UUIDs as `blkid` tells them.

use std::{fs, path::Path};

use blockdev::{
    BlockSizes,
    partitions::{FsKind, Scheme},
};

use super::support::{disks, file, memory, named, run, sparse, survey_of, tool};

const MIB: u64 = 1 << 20;

/// A filesystem: the program that makes it, its arguments (the image comes last), and what it is.
struct Made {
    program: &'static str,
    arguments: &'static [&'static str],
    size: u64,
    kind: FsKind,
}

const fn made(program: &'static str, arguments: &'static [&'static str], mib: u64, kind: FsKind) -> Made {
    Made { program, arguments, size: mib * MIB, kind }
}

const ALL: [Made; 18] = [
    made("mkfs.ext4", &["-q", "-F", "-t", "ext2", "-L", "two"], 8, FsKind::Ext2),
    made("mkfs.ext4", &["-q", "-F", "-t", "ext3", "-L", "three"], 8, FsKind::Ext3),
    made("mkfs.ext4", &["-q", "-F", "-L", "sixteen letters."], 8, FsKind::Ext4),
    made("mkfs.ext4", &["-q", "-F", "-O", "^has_journal"], 8, FsKind::Ext4),
    made("mke2fs", &["-q", "-F", "-O", "journal_dev", "-L", "log"], 8, FsKind::ExtJournal),
    made("mkfs.xfs", &["-q", "-f", "-L", "twelvelett.x"], 300, FsKind::Xfs),
    made("mkfs.btrfs", &["-q", "-f", "-L", "a btrfs label"], 128, FsKind::Btrfs),
    made("mkntfs", &["-q", "-F", "-L", "Gro\u{df}er Name \u{1f4be}"], 16, FsKind::Ntfs),
    made("mkntfs", &["-q", "-F", "-c", "65536"], 16, FsKind::Ntfs),
    made("mkfs.fat", &["-F", "12", "-n", "TWELVE"], 2, FsKind::Fat12),
    made("mkfs.fat", &["-F", "16", "-n", "SIXTEEN"], 16, FsKind::Fat16),
    made("mkfs.fat", &["-F", "32", "-n", "THIRTY TWO"], 64, FsKind::Fat32),
    made("mkfs.fat", &["-F", "32", "-S", "4096"], 300, FsKind::Fat32),
    made("mkfs.exfat", &["-L", "ex-F\u{e4}t"], 16, FsKind::ExFat),
    made("mkswap", &["-q", "-L", "exchange"], 8, FsKind::Swap),
    made("mkswap", &["-q", "-p", "16384", "-L", "large"], 8, FsKind::Swap),
    made(
        "cryptsetup",
        &["-q", "luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file", "/proc/version"],
        8,
        FsKind::Luks1,
    ),
    made(
        "cryptsetup",
        &[
            "-q",
            "luksFormat",
            "--type",
            "luks2",
            "--label",
            "secret",
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
            "--key-file",
            "/proc/version",
        ],
        32,
        FsKind::Luks2,
    ),
];

/// The value of `key` in what `blkid -o udev` printed, without its escapes (`\\x20`).
fn value(told: &str, key: &str) -> Option<String> {
    let line = told.lines().find_map(|line| line.strip_prefix("ID_FS_")?.strip_prefix(key)?.strip_prefix("_ENC="))?;
    let mut parts = line.split("\\x");
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(code, 16).unwrap());
        bytes.extend(rest.as_bytes());
    }
    Some(String::from_utf8(bytes).unwrap())
}

#[test]
fn filesystems_as_mkfs_makes_them() {
    let Some(blkid) = tool("blkid") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for (number, made) in ALL.iter().enumerate() {
        let Some(program) = tool(made.program) else { continue };
        let path = dir.path().join(format!("{number}.img"));
        let image = path.to_str().unwrap();
        sparse(&path, made.size);
        run(&program, &[made.arguments, &[image]].concat(), "");
        let told = run(&blkid, &["-p", "-o", "udev", image], "");
        let survey = survey_of(file(&path, BlockSizes::CLASSIC));
        let whole = named(&survey, "whole");
        assert_eq!((survey.volumes.len(), whole.scheme, whole.size), (1, Scheme::Whole, made.size), "{survey:#?}");
        let content = whole.content.as_ref().unwrap_or_else(|| panic!("{:?} is not known", made.arguments));
        assert_eq!(content.kind, made.kind, "{:?}", made.arguments);
        assert_eq!(content.label, value(&told, "LABEL"), "{told}");
        let log = || told.lines().find_map(|line| line.strip_prefix("ID_FS_LOGUUID=")).map(str::to_owned);
        assert_eq!(content.uuid, value(&told, "UUID").or_else(log), "{told}");
        compared += 1;
        fs::remove_file(path).unwrap();
    }
    println!("{compared} of {} kinds compared with blkid", ALL.len());
}

#[test]
fn an_iso_image_and_a_squashfs() {
    let (Some(xorriso), Some(squash), Some(blkid)) = (tool("xorriso"), tool("mksquashfs"), tool("blkid")) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let iso = dir.path().join("a.iso");
    let (source, name) = (source.to_str().unwrap(), iso.to_str().unwrap());
    run(&xorriso, &["-as", "mkisofs", "-quiet", "-V", "INSTALL_1", "-o", name, source], "");
    let told = run(&blkid, &["-p", "-o", "udev", name], "");
    let survey = survey_of(file(&iso, BlockSizes::CLASSIC));
    let content = named(&survey, "whole").content.clone().unwrap();
    assert_eq!(content.kind, FsKind::Iso9660);
    assert_eq!((content.label, content.uuid), (value(&told, "LABEL"), value(&told, "UUID")), "{told}");
    let squashfs = dir.path().join("a.squashfs");
    run(&squash, &[source, squashfs.to_str().unwrap(), "-quiet", "-no-progress"], "");
    let survey = survey_of(file(&squashfs, BlockSizes::CLASSIC));
    assert_eq!(named(&survey, "whole").content.as_ref().unwrap().kind, FsKind::Squashfs);
}

/// A filesystem in a partition is found at its place, and the partition's bytes are the filesystem's.
#[test]
fn a_filesystem_in_a_partition() {
    let (Some(sfdisk), Some(mkfs)) = (tool("sfdisk"), tool("mkfs.ext4")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (disk, volume) = (dir.path().join("disk.img"), dir.path().join("volume.img"));
    sparse(&disk, 16 * MIB);
    sparse(&volume, 8 * MIB);
    run(&sfdisk, &[disk.to_str().unwrap()], "label: gpt\nsize=8M\n");
    run(&mkfs, &["-q", "-F", "-L", "inside", volume.to_str().unwrap()], "");
    let content = fs::read(&volume).unwrap();
    let mut image = fs::read(&disk).unwrap();
    image[MIB as usize..9 * MIB as usize].copy_from_slice(&content);
    let survey = survey_of(memory(image));
    let p1 = named(&survey, "p1");
    assert_eq!(p1.content.as_ref().unwrap().label.as_deref(), Some("inside"));
    let device = p1.device.as_ref().unwrap();
    let mut read = vec![0; content.len() + 1];
    assert_eq!(device.read_at(&mut read, 0).unwrap(), content.len());
    assert_eq!(read[..content.len()], content);
    assert_eq!(device.read_at(&mut read, 8 * MIB).unwrap(), 0);
}

/// Real images of other products, where they are at hand.
#[test]
fn images_of_other_products() {
    let Ok(folder) = std::env::var("REVENANT_TESTDATA") else {
        println!("skipped: REVENANT_TESTDATA is not set");
        return;
    };
    let images = Path::new(&folder).join("images");
    for (name, kind) in [
        ("exfat/hadris-exfat_partition.img.zst", FsKind::ExFat),
        ("ext/ext4view-test_disk1.bin.zst", FsKind::Ext4),
        ("ext/ext4view-test_disk_ext2.bin.zst", FsKind::Ext2),
        ("ntfs/colinfinck-testfs1.raw.zst", FsKind::Ntfs),
    ] {
        let bytes = zstd::decode_all(fs::File::open(images.join(name)).unwrap()).unwrap();
        let survey = survey_of(memory(bytes));
        assert_eq!(named(&survey, "whole").content.as_ref().map(|c| c.kind), Some(kind), "{name}: {survey:#?}");
    }
}

/// A pool made by zfs-fuse; its name and GUID as `blkid` told them then. The second label serves when the first is gone.
#[test]
fn a_member_of_a_zfs_pool() {
    let (_, disk) = disks("zfs").remove(0);
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    disk.read_at(&mut bytes, 0).unwrap();
    for wiped in [0, 256 << 10] {
        bytes[..wiped].fill(0);
        let survey = survey_of(memory(bytes.clone()));
        let content = named(&survey, "whole").content.clone().unwrap();
        assert_eq!((content.kind, content.label.as_deref()), (FsKind::Zfs, Some("labpool")));
        assert_eq!(content.uuid.as_deref(), Some("16942035681831979398"));
    }
}
