//! Fuzzes the reader of registry hives: a real hive, changed as the fuzzer says, under a log that the fuzzer made.
//!
//! The input is a byte (the lowest bit: which hive; the next: whether it was closed), a number of changes (one byte), so
//! many changes (place in two bytes, three bytes to put there), and the log.
//!
//!     cargo xtask fuzz registry

#![no_main]

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use blockdev::{BlockDevice, BlockSizes, layers::AsDevice};
use guestfs::os::registry::{Hive, Key};

static PACKED: [&[u8]; 2] = [
    include_bytes!("../../guestfs/tests/data/registry/BCD.zst"),
    include_bytes!("../../guestfs/tests/data/registry/SYSTEM.zst"),
];
static HIVES: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];

/// Keys and values looked at in one run.
const SEEN_MAX: usize = 2000;
const DEPTH_MAX: usize = 64;

fn walk(key: &Key<'_>, depth: usize, seen: &mut usize) {
    let mut see = || {
        *seen += 1;
        if *seen < SEEN_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let _ = key.values(&mut |value| {
        let _ = value.map(|value| (value.text(), value.number()));
        see()
    });
    let mut keys = Vec::new();
    let _ = key.subkeys(&mut |subkey| {
        keys.extend(subkey);
        see()
    });
    for subkey in keys {
        if depth < DEPTH_MAX && *seen < SEEN_MAX {
            let _ = key.subkey(subkey.name());
            walk(&subkey, depth + 1, seen);
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [choice, changes, rest @ ..] = data else { return };
    let which = usize::from(choice & 1);
    let mut hive = HIVES[which].get_or_init(|| zstd::decode_all(PACKED[which]).unwrap()).clone();
    if choice & 2 != 0 {
        hive[4] ^= 1;
    }
    let (changes, log) = rest.split_at(rest.len().min(usize::from(*changes) * 5));
    for change in changes.chunks_exact(5) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (hive.len() - 2);
        hive[at..at + 3].copy_from_slice(&change[2..]);
    }
    let logs: [Arc<dyn BlockDevice>; 1] = [Arc::new(AsDevice::new(log.to_vec(), BlockSizes::CLASSIC))];
    let Ok(hive) = Hive::open(Arc::new(AsDevice::new(hive, BlockSizes::CLASSIC)), &logs) else { return };
    let _ = hive.value(r"ControlSet002\Control\ComputerName\ComputerName", "ComputerName");
    if let Ok(root) = hive.root() {
        walk(&root, 0, &mut 0);
    }
});
