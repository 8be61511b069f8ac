//! Fuzzes ZFS: a pool with gang blocks, spilled attributes, a volume, a snapshot and datasets of every compression and
//! checksum.
//!
//!     cargo xtask fuzz fs_zfs

#![no_main]

mod guest;

use std::sync::OnceLock;

static UNPACKED: OnceLock<Vec<u8>> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| guest::run(&UNPACKED, include_bytes!("../images/zfs.img.zst"), data));
