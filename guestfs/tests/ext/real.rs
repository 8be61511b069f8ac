//! Volumes of the lab and of other people against their manifests.

use std::sync::Arc;

use blockdev::{
    images::{self, gate::Alone},
    partitions::{FsKind, survey},
};

use crate::common::{assert_lab, assert_manifest, filesystem, foreign, foreign_manifest, in_memory};

/// The manifests' maker leaves this out.
pub fn is_extra(path: &str) -> bool {
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

/// Volumes within disk images: on a logical volume of LVM2, and on a whole disk.
#[test]
fn volumes_in_images() {
    for (name, manifest) in [("vmdk/ext2.vmdk.zst", "ext2.vmdk"), ("disk/lvm2.vhdx.gz", "lvm2.vhdx.p1.lv-vol01")] {
        let Some(bytes) = foreign(name) else { return };
        println!("{name}");
        let disk = images::open(name, Arc::new(bytes), None, &Alone).unwrap().disk;
        let volumes = survey(&[("disk0".to_owned(), disk)]).volumes;
        let all = guestfs::find(&volumes);
        let is_ext = |kind| matches!(kind, FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4);
        let ext: Vec<_> = all.iter().filter(|found| is_ext(found.kind)).collect();
        assert_eq!(ext.len(), 1, "{name}");
        assert_manifest(ext[0].open().unwrap().as_ref(), &foreign_manifest(manifest), is_extra);
    }
}
