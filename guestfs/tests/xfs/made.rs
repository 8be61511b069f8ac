//! Volumes made here, with what the lab's lack.

use std::{fs, path::PathBuf, process::Command};

use guestfs::FileSystem;

use crate::{
    common::{device, filesystem},
    kernel::{Volume, assert_same, sync},
    tree,
};

/// Makes a volume with `options`, fills it through the kernel, and compares.
fn assert_made(size: u64, options: &[&str], scale: usize) {
    let Some(volume) = Volume::make(size, options) else { return };
    assert_volume(volume, options, scale);
}

fn assert_volume(mut volume: Volume, options: &[&str], scale: usize) {
    let Some(()) = volume.mount("defaults") else { return };
    tree::fill(&volume.root(), scale);
    volume.unmount();
    let fs = filesystem(&[device(&volume.image())]);
    assert_eq!(fs.info().notes, Vec::<String>::new(), "{options:?}");
    volume.mount("ro,norecovery").unwrap();
    assert_same(fs.as_ref(), &volume.root());
    assert_usage(fs.as_ref(), &volume, options);
}

/// The kernel keeps some blocks back, and has them neither free nor used.
fn assert_usage(fs: &dyn FileSystem, volume: &Volume, options: &[&str]) {
    let (found, expected) = (fs.usage().unwrap(), rustix::fs::statvfs(volume.root()).unwrap());
    assert_eq!(found.total, expected.f_blocks * expected.f_frsize, "{options:?}");
    let free = expected.f_bfree * expected.f_frsize;
    assert!(found.free >= free && found.free - free < found.total / 50, "{options:?}: {found:?}, {free} free");
    let used = |files: u64, free: u64| files - free;
    assert_eq!(
        used(found.files.unwrap(), found.files_free.unwrap()),
        used(expected.f_files, expected.f_ffree),
        "{options:?}"
    );
}

#[test]
fn usual() {
    assert_made(320 << 20, &["-L", "a label"], 3000);
}

#[test]
fn small_blocks() {
    assert_made(320 << 20, &["-b", "size=1024", "-n", "size=8192", "-i", "size=512,nrext64=1"], 4000);
}

#[test]
fn large_inodes_old_times() {
    assert_made(320 << 20, &["-i", "size=2048", "-m", "bigtime=0,rmapbt=1"], 1500);
}

#[test]
fn large_directory_blocks() {
    assert_made(320 << 20, &["-n", "size=65536", "-s", "size=4096", "-m", "reflink=0"], 1500);
}

/// Each file has attributes that say where it is in which directory. Newer tools make such volumes; here the features are
/// switched on in the superblock of an empty one.
#[test]
fn parent_pointers() {
    let Some(volume) = Volume::make(320 << 20, &[]) else { return };
    volume.add_incompatible(0x40 | 0x80);
    assert_volume(volume, &["-i", "exchange=1", "-n", "parent=1"], 600);
}

/// Where there is no room for 64 inodes that lie together, there are fewer.
#[test]
fn sparse_inodes() {
    let options = ["--unsupported", "-b", "size=1024", "-d", "agcount=2"];
    let Some(mut volume) = Volume::make(48 << 20, &options) else { return };
    let Some(()) = volume.mount("defaults") else { return };
    let root = volume.root();
    let name = |n: usize| root.join(format!("fill-{n}"));
    // Nothing is kept back.
    let io = Command::new("xfs_io").args(["-x", "-c", "resblks 0"]).arg(&root).output();
    if !io.is_ok_and(|output| output.status.success()) {
        return println!("SKIPPED: no xfs_io");
    }
    let written =
        |name: &dyn Fn(usize) -> PathBuf, len| (0..).take_while(|n| fs::write(name(*n), vec![7; len]).is_ok()).count();
    // Full of pieces of 20 KiB, of which every second is freed: room for 32 inodes that lie together.
    let count = written(&name, 20 << 10);
    sync(&root);
    written(&|n| root.join(format!("rest-{n}")), 1 << 10);
    (0..count).step_by(2).for_each(|n| fs::remove_file(name(n)).unwrap());
    sync(&root);
    // More than inodes were freed.
    written(&|n| root.join(format!("late-{n}")), 3);
    volume.unmount();
    let trees = (0..2).map(|group| {
        let commands = ["-c", &format!("agi {group}"), "-c", "addr root", "-c", "p recs"];
        let output = Command::new("xfs_db").arg("-r").args(commands).arg(volume.image()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    // Each record has start, holes, count, free.
    let is_sparse =
        |record: &str| record.split(',').nth(2).is_some_and(|count| count.parse().is_ok_and(|n: u32| n < 64));
    let sparse = trees.map(|tree| tree.split_whitespace().filter(|record| is_sparse(record)).count()).sum::<usize>();
    assert!(sparse > 0, "no sparse inodes came to be");
    let fs = filesystem(&[device(&volume.image())]);
    volume.mount("ro,norecovery").unwrap();
    assert_same(fs.as_ref(), &volume.root());
}
