//! Bits flipped in metadata: an error where a checksum or a copy does not help, never something wrong.

use std::{path::Path, sync::Arc};

use blockdev::BlockDevice;
use guestfs::{FileSystem, Result};

use crate::{
    common::{self, Expect, flip_metadata, flip_runs},
    kernel::run,
};

/// Entries of the tree that are walked in each run.
const ENTRIES: usize = 400;

fn open(device: Arc<dyn BlockDevice>) -> Result<Arc<dyn FileSystem>> {
    guestfs::open(blockdev::partitions::FsKind::Btrfs, &[device])
}

/// An image made by `mkfs.btrfs` out of a folder with files of most kinds; no root is needed.
pub fn image(options: &[&str]) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let (tree, image) = (folder.path().join("tree"), folder.path().join("image.raw"));
    fill(&tree);
    let mut arguments = vec!["-q".as_ref(), "--rootdir".as_ref(), tree.as_os_str()];
    arguments.extend(options.iter().map(std::ffi::OsStr::new));
    arguments.push(image.as_os_str());
    std::fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
    if run("mkfs.btrfs", &arguments).is_none() {
        println!("SKIPPED: mkfs.btrfs makes no image here");
        return None;
    }
    Some(std::fs::read(&image).unwrap())
}

fn fill(tree: &Path) {
    for dir in ["a", "b", "b/c"] {
        let dir = tree.join(dir);
        std::fs::create_dir_all(&dir).unwrap();
        for n in 0..100_usize {
            std::fs::write(dir.join(format!("file {n}")), vec![n as u8; n * n * 7]).unwrap();
        }
        std::os::unix::fs::symlink("file 1", dir.join("link")).unwrap();
    }
}

/// Without a second copy of anything.
#[test]
fn single() {
    let Some(bytes) = image(&["-m", "single", "-d", "single", "-n", "4096"]) else { return };
    flip_metadata(&common::in_memory(bytes), &open, flip_runs(), ENTRIES, Expect::TrueOrError);
}

/// With two copies on one device.
#[test]
fn duplicated() {
    let Some(bytes) = image(&["-m", "dup", "--csum", "xxhash"]) else { return };
    flip_metadata(&common::in_memory(bytes), &open, flip_runs(), ENTRIES, Expect::TrueOrError);
}

/// The first superblock is gone, and then every copy.
#[test]
fn superblocks() {
    let Some(mut bytes) = image(&["-L", "copied"]) else { return };
    bytes[64 << 10..(64 << 10) + 4096].fill(0);
    let fs = common::filesystem(&[common::in_memory(bytes.clone())]);
    assert!(fs.info().notes.iter().any(|note| note.contains("superblock is damaged")), "{:?}", fs.info().notes);
    assert_eq!(fs.info().label.as_deref(), Some("copied"));
    let found = common::walk(fs.as_ref(), usize::MAX, u64::MAX);
    assert!(found.errors.is_empty() && found.lines.len() > 300);
    bytes[(64 << 20) + 4000] ^= 1;
    let refused = open(common::in_memory(bytes)).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("superblock"), "{refused}");
}
