//! The images of the lab against their manifests, and against the kernel; a disk of a Hyper-V guest.

use std::sync::Arc;

use blockdev::{
    file::HostFile,
    images::{self, gate::HostFolder},
};

use crate::{
    common::{assert_lab, assert_manifest, device, filesystem, filesystems, foreign, foreign_manifest, lab},
    kernel::{Volume, assert_same},
};

#[test]
fn manifests() {
    for name in ["xfs-v4", "xfs-v4-ftype", "xfs-v5", "xfs-v5-1k", "xfs-v5-bigtime"] {
        assert_lab(name, |_| false);
    }
}

#[test]
fn as_the_kernel_shows() {
    for name in ["xfs-v5", "xfs-v5-1k", "xfs-v5-bigtime"] {
        let Some(image) = lab(&format!("vol/{name}.raw")) else { return };
        let Some(mut place) = Volume::place() else { return };
        let Some(()) = place.mount_image(&image, "ro,norecovery") else { return };
        let fs = filesystem(&[device(&image)]);
        assert_eq!(fs.info().notes, Vec::<String>::new());
        assert_same(fs.as_ref(), &place.root());
    }
}

#[test]
fn a_disk_of_hyper_v() {
    let Some(bytes) = foreign("disk/xfs.vhdx.gz") else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("xfs.vhdx"), bytes).unwrap();
    let file = Arc::new(HostFile::open(&folder.path().join("xfs.vhdx")).unwrap());
    let image = images::open("xfs.vhdx", file, None, &HostFolder::open(folder.path()).unwrap()).unwrap();
    let fs = filesystems(&[image.disk]).remove(0).unwrap();
    println!("{:?} {:?}", fs.info(), fs.usage().unwrap());
    assert_manifest(fs.as_ref(), &foreign_manifest("xfs.vhdx.p1"), |_| false);
}
