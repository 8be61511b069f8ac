//! Fuzzes exFAT.
//!
//!     cargo xtask fuzz fs_exfat

#![no_main]

mod guest;

use std::sync::OnceLock;

static UNPACKED: OnceLock<Vec<u8>> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    guest::run(&UNPACKED, include_bytes!("../images/exfat.img.zst"), data);
});
