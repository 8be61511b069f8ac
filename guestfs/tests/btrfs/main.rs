//! btrfs: the lab's images and a foreign one against manifests of the kernel; images made here against the kernel's own
//! mount of them; devices taken away or filled with rubbish; a machine that crashed; metadata harmed.

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod crashed;
mod devices;
mod formats;
mod harmed;
mod kernel;

use common::{assert_lab, assert_manifest, filesystem, foreign_disk, foreign_manifest};

/// Nothing that is not in the manifest.
fn nothing(_: &str) -> bool {
    false
}

/// A nested subvolume, a snapshot in which it is an empty folder, and a reflink.
#[test]
fn subvolumes() {
    assert_lab("btrfs", nothing);
}

#[test]
fn compressed() {
    assert_lab("btrfs-zstd", nothing);
    assert_lab("btrfs-zlib", nothing);
    assert_lab("btrfs-lzo", nothing);
}

/// Nodes of 4 KiB under xxHash, data among metadata, holes as items, and what `mkfs` wrote without the kernel.
#[test]
fn other_formats() {
    assert_lab("btrfs-xxhash", nothing);
    assert_lab("btrfs-mixed", nothing);
    assert_lab("btrfs-old", nothing);
    assert_lab("btrfs-rootdir", nothing);
}

#[test]
fn several_devices() {
    for raid in ["raid0", "raid1", "raid10", "raid5", "raid6"] {
        assert_lab(&format!("btrfs-{raid}"), nothing);
    }
}

/// A disk of a Hyper-V guest, with each compression and a subvolume.
#[test]
fn hyper_v_guest() {
    let Some(disk) = foreign_disk("disk/btrfs.vhdx.gz") else { return };
    assert_manifest(filesystem(&[disk]).as_ref(), &foreign_manifest("btrfs.vhdx.p1"), nothing);
}
