//! What anybody does with a disk: both of its ends, and a thousand of its extents.

use blockdev::{
    BlockSizes, ReadAt,
    images::{Disk, Opened},
};

pub fn read(opened: Opened) {
    let Ok(disk) = Disk::new(vec![opened.layer], BlockSizes::CLASSIC) else { return };
    let mut buffer = vec![0; 64 << 10];
    let _ = disk.read_at(&mut buffer, 0);
    let end = disk.size().saturating_sub(buffer.len() as u64);
    let _ = disk.read_at(&mut buffer, end);
    let mut at = 0;
    for _ in 0..1000 {
        match disk.extent_at(at) {
            Ok(Some(extent)) => {
                assert!(extent.range.start == at && extent.range.end > at && extent.range.end <= disk.size());
                at = extent.range.end;
            }
            Ok(None) => break,
            Err(_) => at = at.saturating_add(4096),
        }
    }
}
