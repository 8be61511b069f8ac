//! Harmed volumes: copies of what was lost are found, features that nobody knows are refused, and nothing wrong is given.

use std::{fs, ops::ControlFlow, sync::Arc};

use blockdev::{BlockDevice, ErrorKind, Result};
use guestfs::{FileId, FileSystem, Kind};

use crate::{
    common::{
        Expect, assert_manifest, device, entries, filesystem, filesystems, flip_metadata, flip_runs, in_memory, lab,
        walk,
    },
    kernel::formatted,
    made::{build_indexes, debugfs, manifest},
    real::is_extra,
};

fn open(device: Arc<dyn BlockDevice>) -> Result<Arc<dyn FileSystem>> {
    guestfs::open(blockdev::partitions::FsKind::Ext4, &[device])
}

/// Where all metadata has checksums, flipped bits give errors and nothing that is not true.
#[test]
fn flipped_bits_with_checksums() {
    for name in ["ext4", "ext4-bigalloc", "ext4-inline"] {
        let Some(path) = lab(&format!("vol/{name}.raw")) else { return };
        flip_metadata(&device(&path), &open, flip_runs(), 400, Expect::TrueOrError);
    }
}

/// Where it has none, they do no harm.
#[test]
fn flipped_bits_without_checksums() {
    for name in ["ext2-1k", "ext3", "ext4-plain", "ext4-dirty"] {
        let Some(path) = lab(&format!("vol/{name}.raw")) else { return };
        flip_metadata(&device(&path), &open, flip_runs(), 400, Expect::Harmless);
    }
}

/// A volume of several groups with a few files, and their manifest.
fn small(folder: &std::path::Path, options: &str) -> (Vec<u8>, String) {
    let source = folder.join("source");
    fs::create_dir_all(source.join("dir")).unwrap();
    for n in 0..300 {
        fs::write(source.join(format!("dir/a name of some length {n}")), format!("{n}")).unwrap();
    }
    fs::write(source.join("file"), [7; 10_000]).unwrap();
    let image = formatted(folder, 40, &format!("-b 1024 {options} -d {}", source.display()));
    build_indexes(&image);
    (fs::read(image).unwrap(), manifest(&source))
}

/// Without its first superblock and group descriptors, a volume is found and read by their copies.
#[test]
fn copies_of_the_superblock() {
    let folder = tempfile::tempdir().unwrap();
    for options in
        ["-t ext2", "-t ext4", "-t ext4 -O ^metadata_csum,uninit_bg", "-t ext4 -O sparse_super2,^resize_inode"]
    {
        let (bytes, manifest) = small(folder.path(), options);
        let harmed = |range: std::ops::Range<usize>| {
            let mut bytes = bytes.clone();
            bytes[range].fill(0xe5);
            filesystem(&[in_memory(bytes)])
        };
        let has_checksums = options == "-t ext4";
        // All of it; its number of inodes per group; the descriptors that follow, which only a checksum tells.
        for (range, is_noted) in [(0..3072, true), (1024 + 40..1024 + 44, true), (2048..3072, false)] {
            let fs = harmed(range.clone());
            let notes = &fs.info().notes;
            assert_eq!(
                notes.iter().any(|note| note.contains("superblock")),
                is_noted,
                "{options}, {range:?}: {notes:?}"
            );
            assert_manifest(fs.as_ref(), &manifest, is_extra);
        }
        // A bit that makes nothing impossible.
        let mut bytes = bytes.clone();
        bytes[1024 + 120] ^= 1;
        let fs = filesystem(&[in_memory(bytes)]);
        assert_eq!(fs.info().label.is_none(), has_checksums || options.contains("sparse_super2"), "{options}");
    }
}

/// What a reader would have to know is refused by its name; what it need not is not.
#[test]
fn unknown_features() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, manifest) = small(folder.path(), "-t ext2");
    let with = |at: usize, bit: u32| {
        let mut bytes = bytes.clone();
        bytes[1024 + at + bit as usize / 8] |= 1 << (bit % 8);
        filesystems(&[in_memory(bytes)]).remove(0)
    };
    for (bit, name) in [(0, "compression"), (12, "dirdata"), (30, "0x40000000")] {
        let error = with(96, bit).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    for at in [92, 100] {
        assert_manifest(with(at, 30).unwrap().as_ref(), &manifest, is_extra);
    }
}

/// Files that nobody was told of are errors, as is asking a file for what it has not.
#[test]
fn files_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, _) = small(folder.path(), "-t ext4");
    let fs = filesystem(&[in_memory(bytes)]);
    // None, the journal, the inode that keeps room to grow, one that is free, one behind the last, and no numbers at all.
    for number in [0, 1, 7, 8, 2000, 1 << 31, u32::MAX.into(), 1 << 32 | 2, u64::MAX] {
        let error = fs.metadata(FileId::of(number)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Damaged), "{number}: {error}");
    }
    assert!(fs.metadata(FileId { tree: 1, number: 2 }).is_err());
    let file = fs.lookup(fs.root(), b"file").unwrap().unwrap();
    for id in [fs.root(), file] {
        let is_dir = fs.metadata(id).unwrap().kind == Kind::Dir;
        assert_eq!(fs.lookup(id, b"x").is_ok(), is_dir);
        assert_eq!(fs.list(id, 0, &mut |_| ControlFlow::Continue(())).is_ok(), is_dir);
        assert_eq!(fs.content(id).is_err(), is_dir);
        assert_eq!(fs.link_target(id).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

/// A cookie that is in no place where an entry begins gives the entries after that place, in their order.
#[test]
fn any_cookie() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, _) = small(folder.path(), "-t ext4 -O inline_data");
    let fs = filesystem(&[in_memory(bytes)]);
    let dir = fs.lookup(fs.root(), b"dir").unwrap().unwrap();
    for dir in [dir, fs.root()] {
        let all = entries(fs.as_ref(), dir).unwrap();
        for cookie in (0..20_000).chain([u64::MAX, 1 << 62, u64::MAX - 5000]).step_by(11) {
            let mut listed = Vec::new();
            let mut take = |entry| {
                listed.push(entry);
                ControlFlow::Continue(())
            };
            fs.list(dir, cookie, &mut take).unwrap();
            assert_eq!(listed, all[all.len() - listed.len()..], "{cookie}");
        }
    }
}

/// A hash tree that makes no sense hides nothing: all entries are looked at.
#[test]
fn odd_trees() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, _) = small(folder.path(), "-t ext4 -O ^metadata_csum");
    let image = folder.path().join("volume.raw");
    let root = debugfs(&image, "bmap /dir 0").trim().parse::<usize>().unwrap() * 1024;
    // Function, length of these fields, levels, flags, number of entries, block of the first.
    let harms: [(usize, &[u8]); 7] =
        [(28, &[9]), (28, &[6]), (29, &[7]), (30, &[1]), (31, &[1]), (34, &[0xff, 0xff]), (36, &[0xff; 3])];
    for (at, harm) in harms {
        let mut bytes = bytes.clone();
        bytes[root + at..root + at + harm.len()].copy_from_slice(harm);
        let fs = filesystem(&[in_memory(bytes)]);
        let dir = fs.lookup(fs.root(), b"dir").unwrap().unwrap();
        let listed = entries(fs.as_ref(), dir).unwrap();
        assert_eq!(listed.len(), 300);
        for entry in listed {
            assert_eq!(fs.lookup(dir, &entry.name).unwrap(), Some(entry.id), "harm at {at}");
        }
        assert_eq!(fs.lookup(dir, b"no such name").unwrap(), None);
    }
}

/// A volume that was cut off says so, and gives what is there.
#[test]
fn cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, _) = small(folder.path(), "-t ext4");
    let whole = walk(filesystem(&[in_memory(bytes.clone())]).as_ref(), usize::MAX, u64::MAX);
    let (mut some, mut refused) = (0, 0);
    for len in [1, 4, 16, 64, 100, 256, 1024, 4096, 9000, 16_384, 30_000, 40_000] {
        let cut = bytes[..len * 1024].to_vec();
        let Some(Ok(fs)) = filesystems(&[in_memory(cut)]).pop() else {
            refused += 1;
            continue;
        };
        assert!(fs.info().notes.iter().any(|note| note.contains("smaller")), "{:?}", fs.info().notes);
        let found = walk(fs.as_ref(), usize::MAX, u64::MAX);
        for (path, line) in &found.lines {
            assert_eq!(whole.lines.get(path), Some(line), "{len} KiB: {path}");
        }
        assert!(found.lines.len() == whole.lines.len() || !found.errors.is_empty(), "{len} KiB");
        some += usize::from(!found.lines.is_empty());
    }
    assert!(some > 1 && refused > 0, "{some} with files, {refused} refused");
}
