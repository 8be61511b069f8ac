//! Fuzzes NTFS.
//!
//!     cargo xtask fuzz fs_ntfs

#![no_main]

mod guest;

use std::sync::OnceLock;

static UNPACKED: OnceLock<Vec<u8>> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    guest::run(&UNPACKED, include_bytes!("../images/ntfs.img.zst"), data);
});
