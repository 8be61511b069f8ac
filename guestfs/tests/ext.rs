//! ext2, ext3 and ext4.
mod common;

use common::{assert_lab, assert_manifest, filesystem, foreign, foreign_manifest, in_memory};

/// The manifests' maker leaves this out.
fn is_extra(path: &str) -> bool {
    path == "lost+found" || path.starts_with("lost+found/")
}

/// The whole tree of volumes that the kernel wrote, of all shapes: maps of blocks and of extents, content in inodes,
/// clusters, and one that was copied while it was mounted.
#[test]
fn lab_volumes() {
    for name in ["ext2", "ext2-1k", "ext3", "ext4", "ext4-plain", "ext4-bigalloc", "ext4-inline", "ext4-dirty"] {
        println!("{name}");
        assert_lab(name, is_extra);
    }
}

/// The same for volumes of other people.
#[test]
fn foreign_volumes() {
    for name in ["ext4view-test_disk1.bin", "ext4view-test_disk_ext2.bin"] {
        let Some(bytes) = foreign(&format!("ext/{name}.zst")) else { return };
        println!("{name}");
        assert_manifest(filesystem(&[in_memory(bytes)]).as_ref(), &foreign_manifest(name), is_extra);
    }
}
