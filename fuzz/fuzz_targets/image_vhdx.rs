//! Fuzzes the reader of VHDX; the checksums are put right, so that what is behind them is reached.
//!
//!     cargo xtask fuzz image_vhdx

#![no_main]

mod sparse;

use blockdev::images::Format;
use sparse::Sparse;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(mut file) = Sparse::parse(data) else { return };
    for (at, len) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 64 << 10), (256 << 10, 64 << 10)] {
        file.crc(at, len);
    }
    file.log_crcs();
    file.walk(Format::Vhdx);
});
