//! btrfs: the lab's images and a foreign one against manifests of the kernel, devices taken away, data harmed.

mod common;

use common::{assert_lab, assert_manifest, foreign, foreign_manifest};

fn nothing(_: &str) -> bool {
    false
}

#[test]
fn plain_with_subvolumes() {
    assert_lab("btrfs", nothing);
}

#[test]
fn compressed() {
    assert_lab("btrfs-zstd", nothing);
    assert_lab("btrfs-zlib", nothing);
    assert_lab("btrfs-lzo", nothing);
}

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
