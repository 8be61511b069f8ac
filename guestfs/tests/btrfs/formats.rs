//! Filesystems that are not as `mkfs.btrfs` leaves them: converted, renamed, grown out of a seed, with features that are
//! refused.

use std::ffi::OsStr;

use blockdev::{ErrorKind, partitions::FsKind};
use crc_fast::{CrcAlgorithm, checksum};

use crate::{
    common::{self, assert_manifest, device, filesystem, in_memory, walk},
    harmed::image,
    kernel::{Machine, assert_same, run, script},
};

/// What `btrfs-convert` makes of an ext4 of the lab: its files are there, and the old filesystem as one large file.
#[test]
fn converted() {
    let Some(ext4) = common::lab("vol/ext4-plain.raw") else { return };
    let manifest = std::fs::read_to_string(ext4.with_file_name("ext4-plain.manifest.tsv")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("image.raw");
    run("cp", &["--sparse=always".as_ref(), ext4.as_os_str(), copy.as_os_str()]).unwrap();
    if run("btrfs-convert", &["-q".as_ref(), copy.as_os_str()]).is_none() {
        return println!("SKIPPED: btrfs-convert does not run here");
    }
    let fs = filesystem(&[device(&copy)]);
    let is_extra = |path: &str| path.starts_with("lost+found") || path.starts_with("ext2_saved");
    assert_manifest(fs.as_ref(), &manifest, is_extra);
    // Which is the whole of it, as the reader of ext finds it.
    let saved = fs.lookup(fs.root(), b"ext2_saved").unwrap().unwrap();
    let old = fs.lookup(saved, b"image").unwrap().unwrap();
    let old = std::sync::Arc::new(common::open(fs.as_ref(), old).unwrap());
    assert_manifest(filesystem(&[old]).as_ref(), &manifest, |path| path.starts_with("lost+found"));
}

/// Another UUID, while the nodes keep the old one.
#[test]
fn renamed() {
    let Some(bytes) = image(&[]) else { return };
    let before = walk(filesystem(&[in_memory(bytes.clone())]).as_ref(), usize::MAX, u64::MAX);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.raw");
    std::fs::write(&path, bytes).unwrap();
    let uuid = "01234567-89ab-4cde-8f01-23456789abcd";
    if run("btrfstune", &["-M".as_ref(), uuid.as_ref(), path.as_os_str()]).is_none() {
        return println!("SKIPPED: btrfstune does not run here");
    }
    let fs = filesystem(&[device(&path)]);
    assert_eq!(fs.info().uuid.as_deref(), Some(uuid));
    let after = walk(fs.as_ref(), usize::MAX, u64::MAX);
    assert!(after.errors.is_empty() && after.lines == before.lines);
}

/// What was written since lies on another device than the seed; and another subvolume is mounted by default.
#[test]
fn grown_out_of_a_seed() {
    let Some(mut machine) = Machine::new(1, 160, &[], "noatime") else { return };
    script(&machine.root(), "mkdir d; for i in $(seq 1 20); do head -c $((i*30000)) /dev/urandom > d/$i; done");
    machine.unmount();
    run("btrfstune", &["-S".as_ref(), "1".as_ref(), machine.path(0).as_os_str()]).unwrap();
    std::fs::File::create(machine.path(1)).unwrap().set_len(300 << 20).unwrap();
    assert!(machine.mount("ro"));
    let added = machine.loops()[1].clone();
    let root = machine.root();
    run(
        "btrfs",
        &["device", "add", "-f", &added].map(OsStr::new).iter().copied().chain([root.as_os_str()]).collect::<Vec<_>>(),
    )
    .unwrap();
    run("mount", &["-o".as_ref(), "remount,rw,noatime".as_ref(), root.as_os_str()]).unwrap();
    script(
        &root,
        "head -c 300000 /dev/urandom > new; btrfs -q subvolume create sub; btrfs subvolume set-default sub; sync -f .",
    );
    let fs = guestfs::open(FsKind::Btrfs, &machine.devices()).unwrap();
    let notes = &fs.info().notes;
    assert!(notes.len() == 1 && notes[0].contains("default subvolume"), "{notes:?}");
    assert_eq!(assert_same(fs.as_ref(), &root, None), 23);
    // Without the seed.
    let alone = guestfs::open(FsKind::Btrfs, &[device(&machine.path(1))]);
    match alone {
        Ok(fs) => assert!(fs.info().notes.iter().any(|note| note.contains("seed")), "{:?}", fs.info().notes),
        Err(e) => assert_eq!(e.kind(), ErrorKind::Missing, "{e}"),
    }
}

/// Features that would be read wrong are refused by their name.
#[test]
fn refused() {
    let Some(bytes) = image(&[]) else { return };
    for (bit, name) in [(12, "zoned"), (13, "extent-tree-v2"), (14, "raid-stripe-tree"), (40, "0x10000000000")] {
        let mut bytes = bytes.clone();
        for place in [64 << 10, 64 << 20] {
            let superblock = &mut bytes[place..place + 4096];
            superblock[188 + bit / 8] |= 1 << (bit % 8);
            let sum = checksum(CrcAlgorithm::Crc32Iscsi, &superblock[32..]) as u32;
            superblock[..4].copy_from_slice(&sum.to_le_bytes());
        }
        let refused = common::filesystems(&[in_memory(bytes)]).remove(0).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert!(refused.to_string().contains(name), "{refused}");
    }
}
