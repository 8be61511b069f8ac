//! ZFS.
mod common;

use std::sync::Arc;

use blockdev::BlockDevice;
use common::*;

/// What manifests leave out: snapshots.
fn is_snapshot(path: &str) -> bool {
    path.split('/').any(|part| part == ".zfs")
}

#[test]
fn lab_pools() {
    for name in ["zfs-single", "zfs-mirror", "zfs-raidz1", "zfs-raidz2"] {
        assert_lab(name, is_snapshot);
    }
}
