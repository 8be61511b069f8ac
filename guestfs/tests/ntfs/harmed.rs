//! Harmed volumes: no panic, no hang. Update sequence numbers guard against torn writes, not against all that can
//! happen to a bit.

use std::sync::Arc;

use blockdev::BlockDevice;
use guestfs::{FileId, FileSystem, Result};

use crate::common::{Expect, Random, device, filesystem, flip_metadata, flip_runs, lab};

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

/// Numbers of files, and places in directories, that nobody gave.
#[test]
fn forged_numbers() {
    let Some(path) = lab("vol/ntfs-1k.raw") else { return };
    let fs = filesystem(&[device(&path)]);
    let mut random = Random(3);
    let large = fs.lookup(fs.root(), b"hugedir").unwrap().unwrap();
    let (mut found, mut listed) = (0, 0);
    for _ in 0..3000 {
        // Of all numbers, and of those that nearly are right.
        let bits = random.below(64);
        let number = random.next() >> bits;
        let id = FileId::of(number);
        found += u32::from(fs.metadata(id).is_ok());
        let _ = (fs.content(id).is_ok(), fs.xattrs(id).is_ok(), fs.streams(id).is_ok(), fs.link_target(id).is_ok());
        let _ = fs.lookup(id, b"x");
        for dir in [large, id] {
            let _ = fs.list(dir, number >> 2, &mut |_| {
                listed += 1;
                std::ops::ControlFlow::Break(())
            });
        }
    }
    assert!(found > 10 && listed > 10, "{found} {listed}");
}
