//! Damaged VHD and VHDX images: whatever is changed in their headers and tables, they are opened, read or refused in
//! bounded time and memory, without a panic. A program of its own, because it measures its memory.

#[path = "common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the tests of the formats use the rest")]
#[path = "vhd/edit.rs"]
mod edit;

use std::{ops::Range, path::Path, sync::Arc, time::Instant};

use blockdev::{
    ReadAt,
    images::{self, Format},
};
use peak_alloc::PeakAlloc;

use common::{Folder, Random, real_image, touch};
use edit::{crc, made, seal_vhd, seal_vhdx};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that an image may use besides itself: its caches and what it is read into.
const MEMORY_MAX: usize = 64 << 20;
const SECONDS_MAX: u64 = 10;
const ROUNDS: u64 = 400;

/// What makes changed bytes an image again.
struct Seal {
    format: Format,
    checksums: fn(&mut [u8]),
}

const VHD: Seal = Seal { format: Format::Vhd, checksums: seal_vhd };
const VHDX: Seal = Seal { format: Format::Vhdx, checksums: seal_logged };

/// Change `bytes` at random within `targets`; `seal` gives the checksums that make most changes count.
fn damage(bytes: &mut [u8], targets: &[Range<usize>], seal: &Seal, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let target = &targets[random.below(targets.len() as u64) as usize];
        let at = target.start + random.below(target.len() as u64) as usize;
        let values = [0, 1, 0x7f, 0x80, 0xff, u64::from(u32::MAX), u64::MAX, u64::MAX << 20, 1 << 40, 0x200];
        match random.below(4) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            kind => {
                let at = at / 4 * 4;
                let value = values[random.below(values.len() as u64) as usize];
                let value = if kind == 2 { value.to_be_bytes() } else { value.to_le_bytes() };
                let part = if random.below(2) == 0 { &value[..] } else { &value[4..] };
                let end = (at + part.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&part[..end - at]);
            }
        }
    }
    if random.below(8) != 0 {
        (seal.checksums)(bytes);
    }
}

/// Damage `image` many times. How many of the damaged images were opened.
fn survives(image: &[u8], targets: &[Range<usize>], seal: &Seal, beside: &Folder, seed: u64) -> u64 {
    let mut random = Random(seed);
    let mut opened = 0;
    let mut scratch: Arc<Vec<u8>> = Arc::new(image.to_vec());
    for round in 0..ROUNDS {
        let bytes = Arc::get_mut(&mut scratch).expect("the last image is gone");
        bytes.copy_from_slice(image);
        damage(bytes, targets, seal, &mut random);
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let started = Instant::now();
        let file = Arc::clone(&scratch) as Arc<dyn ReadAt>;
        if let Ok(image) = images::open("image", file, Some(seal.format), beside) {
            touch(&image);
            opened += 1;
        }
        let (seconds, memory) = (started.elapsed().as_secs(), MEMORY.peak_usage() - before);
        assert!(seconds < SECONDS_MAX, "round {round} of seed {seed} takes {seconds} s");
        assert!(memory < MEMORY_MAX, "round {round} of seed {seed} takes {memory} bytes");
    }
    opened
}

/// Headers, region tables, and the log's entries.
fn seal_logged(image: &mut [u8]) {
    seal_vhdx(image);
    for at in (1 << 20..(2 << 20).min(image.len())).step_by(4096) {
        if image[at..].starts_with(b"loge") {
            let len = edit::le32(image, at + 8) as usize;
            if (4096..=64 << 10).contains(&len) && at + len <= image.len() {
                crc(&mut image[at..at + len]);
            }
        }
    }
}

fn read(name: &str, folder: &Path) -> Option<Vec<u8>> {
    real_image(name, folder).map(|path| std::fs::read(path).unwrap())
}

#[test]
fn damaged_images_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let alone = Folder::default();
    let random = &mut Random(41);
    let mut opened = Vec::new();
    for (seed, subformat) in [(1, "fixed"), (2, "dynamic")] {
        let options = format!("subformat={subformat},force_size=on");
        let (image, _) = made("vpc", &options, 9 << 20, random, folder.path());
        let end = image.len() - 512..image.len();
        let targets = [end, 0..88, 512..1536, 1536..1600];
        opened.push(survives(&image, &targets, &VHD, &alone, seed));
    }
    let headers = [64 << 10..(64 << 10) + 80, 128 << 10..(128 << 10) + 80, 192 << 10..(192 << 10) + 80];
    for (seed, options) in [(3, "subformat=fixed,block_size=1M,block_state_zero=off"), (4, "block_size=1M")] {
        let (image, _) = made("vhdx", options, 9 << 20, random, folder.path());
        // The table, the items of the metadata, and their values.
        let rest =
            [2 << 20..(2 << 20) + 80, 3 << 20..(3 << 20) + 192, (3 << 20) + (64 << 10)..(3 << 20) + (64 << 10) + 48];
        opened.push(survives(&image, &[&headers[..], &rest].concat(), &VHDX, &alone, seed));
    }
    if let (Some(parent), Some(child), Some(log)) = (
        read("vhd/ntfs-parent.vhd.zst", folder.path()),
        read("vhd/ntfs-differential.vhd.zst", folder.path()),
        read("vhdx/iotest-dirtylog-10G-4M.vhdx.bz2", folder.path()),
    ) {
        let beside = Folder::of([("ntfs-parent.vhd", parent)]);
        let end = child.len() - 512..child.len();
        // Locators, table, and a bitmap.
        let targets = [end, 0..88, 512..1536, 0x1000..0x1060, 0x3000..0x3030, 0x2000..0x2010, 0x4000..0x4600];
        opened.push(survives(&child, &targets, &VHD, &beside, 5));
        let entries = [1 << 20..(1 << 20) + 160, (1 << 20) + 4096..(1 << 20) + 4200, 3 << 20..(3 << 20) + 192];
        opened.push(survives(&log, &[&headers[..], &entries].concat(), &VHDX, &alone, 6));
    }
    // Some are refused, and some only have other bytes.
    for opened in &opened {
        assert!((ROUNDS / 20..ROUNDS).contains(opened), "{opened} of {ROUNDS} were opened");
    }
}
