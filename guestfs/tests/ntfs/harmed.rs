//! Harmed volumes: no panic, no hang. Update sequence numbers guard against torn writes, not against all that can
//! happen to a bit.

use std::sync::Arc;

use blockdev::BlockDevice;
use guestfs::{FileSystem, Result};

use crate::common::{Expect, device, flip_metadata, flip_runs, lab};

fn open_ntfs(device: Arc<dyn BlockDevice>) -> Result<Arc<dyn FileSystem>> {
    guestfs::open(blockdev::partitions::FsKind::Ntfs, &[device])
}

#[test]
fn flips() {
    for name in ["ntfs", "ntfs-1k", "ntfs-64k"] {
        let Some(path) = lab(&format!("vol/{name}.raw")) else { return };
        flip_metadata(&device(&path), &open_ntfs, flip_runs() / 3 + 1, 600, Expect::Harmless);
    }
}
