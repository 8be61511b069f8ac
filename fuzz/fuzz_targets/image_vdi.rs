//! Fuzzes a VDI image.
//!
//!     cargo xtask fuzz image_vdi

#![no_main]

mod disk;

use std::sync::Arc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(opened) = blockdev::images::vdi::open(Arc::new(data.to_vec())) {
        disk::read(opened);
    }
});
