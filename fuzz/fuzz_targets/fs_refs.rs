//! Fuzzes ReFS: the first byte of the input chooses the volume that the rest changes. They are built by hand, since there
//! is no tool that makes one.
//!
//!     cargo xtask fuzz fs_refs

#![no_main]

mod guest;
#[path = "../../guestfs/tests/refs_volume/mod.rs"]
mod refs_volume;

use std::sync::OnceLock;

use blockdev::ReadAt;
use refs_volume::{Flavour, SIZE, built};

static UNPACKED: [OnceLock<Vec<u8>>; 3] = [const { OnceLock::new() }; 3];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let choice = usize::from(*choice) % UNPACKED.len();
    UNPACKED[choice].get_or_init(|| {
        let mut bytes = vec![0; SIZE as usize];
        built([Flavour::First, Flavour::Old, Flavour::New][choice]).read_at(&mut bytes, 0).unwrap();
        bytes
    });
    guest::run(&UNPACKED[choice], &[], rest);
});
