//! Fuzzes ext2 and ext4, with and without a journal that has to be replayed: the first byte of the input chooses the
//! image that the rest changes.
//!
//!     cargo xtask fuzz fs_ext

#![no_main]

mod guest;

use std::sync::OnceLock;

static UNPACKED: [OnceLock<Vec<u8>>; 3] = [const { OnceLock::new() }; 3];
const PACKED: [&[u8]; 3] = [
    include_bytes!("../images/ext2.img.zst"),
    include_bytes!("../images/ext4.img.zst"),
    include_bytes!("../images/ext4-dirty.img.zst"),
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let choice = usize::from(*choice) % PACKED.len();
    guest::run(&UNPACKED[choice], PACKED[choice], rest);
});
