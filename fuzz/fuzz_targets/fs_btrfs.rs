//! Fuzzes btrfs: on one device, after a crash, and as two of the four members of a RAID 6; the first byte of the input
//! chooses the image that the rest changes.
//!
//!     cargo xtask fuzz fs_btrfs

#![no_main]

mod guest;

use std::sync::OnceLock;

static UNPACKED: [OnceLock<Vec<u8>>; 3] = [const { OnceLock::new() }; 3];
const PACKED: [&[u8]; 3] = [
    include_bytes!("../images/btrfs.img.zst"),
    include_bytes!("../images/btrfs-log.img.zst"),
    include_bytes!("../images/btrfs-raid6.img.zst"),
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let choice = usize::from(*choice) % PACKED.len();
    guest::run(&UNPACKED[choice], PACKED[choice], rest);
});
