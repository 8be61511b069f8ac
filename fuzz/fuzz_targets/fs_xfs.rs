//! Fuzzes XFS of versions 5 and 4, both with a log that has to be replayed: the first byte of the input chooses the image
//! that the rest changes.
//!
//!     cargo xtask fuzz fs_xfs

#![no_main]

mod guest;

use std::sync::OnceLock;

static UNPACKED: [OnceLock<Vec<u8>>; 2] = [const { OnceLock::new() }; 2];
const PACKED: [&[u8]; 2] = [
    include_bytes!("../images/xfs.img.zst"),
    include_bytes!("../../guestfs/tests/xfs/data/version4-dirty.img.zst"),
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let choice = usize::from(*choice) % PACKED.len();
    guest::run(&UNPACKED[choice], PACKED[choice], rest);
});
