//! Disks whose tables and metadata are broken at random: looking at them and reading their volumes ends soon, in
//! bounded memory, without a panic. The randomness is seeded: a failure names its seed and comes back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use blockdev::{BlockDevice, partitions};

use super::support::{Random, disks, memory, run, sparse, tool};

/// What one survey and its reads may take, unoptimised and on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of each volume that are read from both ends.
const READ: usize = 1 << 20;

const EXTREMES: [u32; 12] =
    [0, 1, 2, 511, 512, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xffff_fffe, 63, 128, 0x0010_0000];

/// Everything that can be done with the volumes of `disks`.
fn use_all(disks: &[(String, Arc<dyn BlockDevice>)], what: &str) {
    let start = Instant::now();
    let survey = partitions::survey(disks);
    assert!(survey.volumes.len() <= 512, "{what}");
    let mut buf = vec![0; READ];
    for device in survey.volumes.iter().filter_map(|v| v.device.as_ref()) {
        for at in [0, device.size().saturating_sub(READ as u64), device.size() / 2] {
            let _ = device.read_at(&mut buf, at);
            let _ = device.map(at, READ as u64);
        }
        let mut at = 0;
        for _ in 0..100 {
            match device.extent_at(at) {
                Ok(Some(extent)) => {
                    assert!(extent.range.start <= at && extent.range.end > at, "{what}: {extent:?} at {at}");
                    at = extent.range.end;
                }
                Ok(None) | Err(_) => break,
            }
        }
    }
    assert!(start.elapsed() < PATIENCE, "{what} took {:?}", start.elapsed());
}

/// Changes `count` fields within `places` of `bytes`.
fn break_some(bytes: &mut [u8], places: &[std::ops::Range<usize>], random: &mut Random) {
    for _ in 0..=random.index(8) {
        let place = places[random.index(places.len())].clone();
        let at = place.start + random.index(place.len());
        match random.index(4) {
            0 => bytes[at] ^= 1 << random.index(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let value = EXTREMES[random.index(EXTREMES.len())];
                let end = (at + 4).min(bytes.len());
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            _ => {
                let from = place.start + random.index(place.len());
                let n = 64.min(bytes.len() - at.max(from));
                bytes.copy_within(from..from + n, at);
            }
        }
    }
}

#[test]
fn broken_tables() {
    let Some(sfdisk) = tool("sfdisk") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    for (case, script, places) in [
        (
            "mbr",
            "label: dos\nsize=1M\nsize=1M\nsize=1M\nsize=8M,type=5\nsize=1M\nsize=1M\nsize=1M\n",
            &[440..512_usize, 4_194_304 + 440..4_194_304 + 512, 6_291_456 + 440..6_291_456 + 512][..],
        ),
        ("gpt", "label: gpt\nsize=1M\nsize=1M\nsize=1M\n", &[440..512, 512..604, 512..604, 1024..1536][..]),
    ] {
        sparse(&path, 16 << 20);
        run(&sfdisk, &[path.to_str().unwrap()], script);
        let image = std::fs::read(&path).unwrap();
        for seed in 0..400 {
            let mut random = Random(seed);
            let mut bytes = image.clone();
            break_some(&mut bytes, places, &mut random);
            // Half of the time the header's checksum is made right again, so that what is behind it is reached.
            if case == "gpt" && seed % 2 == 0 {
                set_gpt_checksums(&mut bytes);
            }
            use_all(&[("disk0".to_owned(), memory(bytes))], &format!("{case}, seed {seed}"));
        }
    }
}

/// Makes the checksums of the first header right.
fn set_gpt_checksums(bytes: &mut [u8]) {
    let crc = |bytes: &[u8]| {
        let step = |crc: u32, byte: &u8| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
        };
        !bytes.iter().fold(!0, step)
    };
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let length = word(bytes, 512 + 80).saturating_mul(word(bytes, 512 + 84));
    if length <= 1 << 20 {
        let entries = crc(&bytes[1024..1024 + length]);
        bytes[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
    }
    bytes[512 + 16..512 + 20].fill(0);
    let header = crc(&bytes[512..512 + word(bytes, 512 + 12).min(512)]);
    bytes[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
}

/// The places of `bytes` that are not the contents of volumes: metadata lies in the first MiB and at the end.
fn metadata(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let used: Vec<_> = (0..bytes.len() / 4096)
        .map(|i| i * 4096..(i + 1) * 4096)
        .filter(|r| (r.start < 1 << 20 || r.end + 200_000 > bytes.len()) && bytes[r.clone()].iter().any(|b| *b != 0))
        .collect();
    used
}

#[test]
fn broken_members() {
    for case in ["lvm", "lvm-raid", "md-raid5-ls", "md-raid10-o2", "md-raid0-zones", "md-raid1-090"] {
        let all = disks(case);
        let bytes: Vec<_> = all
            .iter()
            .map(|(_, disk)| {
                let mut bytes = vec![0; disk.size() as usize];
                disk.read_at(&mut bytes, 0).unwrap();
                let places = metadata(&bytes);
                (bytes, places)
            })
            .collect();
        for seed in 0..60 {
            let mut random = Random(seed);
            let broken = random.index(all.len());
            let (mut bytes, places) = bytes[broken].clone();
            break_some(&mut bytes, &places, &mut random);
            if case.starts_with("md") {
                set_md_checksums(&mut bytes);
            }
            let mut disks = all.clone();
            disks[broken].1 = memory(bytes);
            use_all(&disks, &format!("{case}, seed {seed}"));
        }
    }
}

/// Makes the checksum of a superblock of version 1.2 right, so that what is behind it is reached.
fn set_md_checksums(bytes: &mut [u8]) {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let sb = &mut bytes[4096..8192];
    let length = 256 + 2 * (word(sb, 220) as usize).min(1920);
    sb[216..220].fill(0);
    let mut sum: u64 = sb[..length].chunks_exact(4).map(|w| u64::from(word(w, 0))).sum();
    if length % 4 == 2 {
        sum += u64::from(u16::from_le_bytes(sb[length - 2..length].try_into().unwrap()));
    }
    let folded = (sum as u32).wrapping_add((sum >> 32) as u32);
    sb[216..220].copy_from_slice(&folded.to_le_bytes());
}

/// The text of a real group, broken: a checksum guards it on a disk, so it is given to the parser as it is.
#[test]
fn broken_lvm_text() {
    let (_, disk) = disks("lvm").remove(0);
    let mut bytes = vec![0; 1 << 20];
    disk.read_at(&mut bytes, 0).unwrap();
    // Old texts lie about, some of them overwritten in part: the last whole one will do.
    let starts = (0..bytes.len()).rev().filter(|at| bytes[*at..].starts_with(b"vgdata {"));
    let texts = starts.map(|at| bytes[at..].split(|b| *b == 0).next().unwrap());
    let text =
        texts.filter(|text| text.len() > 10_000).find(|text| partitions::parse_lvm_metadata(text).is_ok()).unwrap();
    let mut refused = 0;
    for seed in 0..300 {
        let mut text = text.to_vec();
        let places: Vec<_> = std::iter::once(0..text.len() - 64).collect();
        break_some(&mut text, &places, &mut Random(seed));
        refused += usize::from(partitions::parse_lvm_metadata(&text).is_err());
    }
    assert!(refused > 0);
}
