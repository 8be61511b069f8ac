//! Fuzzes a qcow2 image, its snapshots and its bitmaps.
//!
//!     cargo xtask fuzz image_qcow2

#![no_main]

mod disk;

use std::sync::Arc;

use blockdev::{
    ReadAt,
    images::{gate::Alone, qcow2},
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let file: Arc<dyn ReadAt> = Arc::new(data.to_vec());
    let Ok(opened) = qcow2::open(Arc::clone(&file), &Alone) else { return };
    for snapshot in opened.info.snapshots.iter().take(2) {
        if let Ok(opened) = qcow2::open_snapshot(Arc::clone(&file), &Alone, &snapshot.id) {
            disk::read(opened);
        }
    }
    for bitmap in opened.info.bitmaps.iter().take(2) {
        let Ok(ranges) = qcow2::dirty_ranges(Arc::clone(&file), &bitmap.name) else { continue };
        let mut end = None;
        for range in ranges.take(1000).map_while(Result::ok) {
            assert!(end.is_none_or(|end| range.start > end) && range.end > range.start);
            assert!(range.end <= opened.info.virtual_size);
            end = Some(range.end);
        }
    }
    disk::read(opened);
});
