//! Fuzzes the reader of VHD; the checksums are put right, so that what is behind them is reached.
//!
//!     cargo xtask fuzz image_vhd

#![no_main]

mod sparse;

use blockdev::{ReadAt, images::Format};
use sparse::Sparse;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(mut file) = Sparse::parse(data) else { return };
    file.sum(0, 512, 64);
    file.sum(512, 1024, 36);
    if let Some(end) = file.size().checked_sub(512) {
        file.sum(end, 512, 64);
    }
    file.walk(Format::Vhd);
});
