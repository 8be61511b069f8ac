//! Volumes with bits flipped in what is read as metadata.

use std::sync::Arc;

use blockdev::{BlockDevice, Result, partitions::FsKind};
use guestfs::FileSystem;

use crate::{
    common::{Expect, device, flip_metadata, flip_runs, lab},
    kernel::Volume,
    tree,
};

pub fn open_xfs(device: Arc<dyn BlockDevice>) -> Result<Arc<dyn FileSystem>> {
    guestfs::open(FsKind::Xfs, &[device])
}

#[test]
fn of_the_lab() {
    // Large: fewer runs.
    let Some(path) = lab("vol/xfs-v5-1k.raw") else { return };
    flip_metadata(&device(&path), &open_xfs, flip_runs().div_ceil(4), 6000, Expect::TrueOrError);
}

/// All forms of directories, maps and attributes.
#[test]
fn made() {
    let Some(mut volume) = Volume::make(48 << 20, &["--unsupported", "-b", "size=1024"]) else { return };
    let Some(()) = volume.mount("defaults") else { return };
    tree::fill(&volume.root(), 150);
    volume.unmount();
    flip_metadata(&device(&volume.image()), &open_xfs, flip_runs(), 4000, Expect::TrueOrError);
}
