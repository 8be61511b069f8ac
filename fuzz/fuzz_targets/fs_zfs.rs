//! Fuzzes ZFS: a pool of one device with datasets, a snapshot and files of each kind.
//!
//!     cargo xtask fuzz fs_zfs

#![no_main]

mod guest;

use std::sync::OnceLock;

static UNPACKED: OnceLock<Vec<u8>> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| guest::run(&UNPACKED, include_bytes!("../images/zfs.img.zst"), data));
