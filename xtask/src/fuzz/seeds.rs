//! The seed corpus: blocks, records and payloads cut out of the real volumes in `tests/data`.
//!
//! The walk over blocks and records is this module's own and simple: it gives up at the first thing it does not
//! understand, and it must not depend on the parsers that its seeds are to test.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::corpus::{self, Case};

/// Seeds kept for a target from one volume: enough for variety, few enough for a fast start.
const SEEDS_PER_VOLUME: usize = 24;
/// A block of the default size is the largest seed.
const SEED_BYTES_MAX: usize = 65_536;
/// Bit mask of the stream type in a record header.
const STREAM_TYPE: u32 = 0x7FF;

/// Writes the seeds under `folder`, one folder a target.
pub fn write(folder: &Path) -> Result<()> {
    let mut seeds = Seeds { folder, count: BTreeMap::new(), taken: BTreeMap::new(), seen: HashSet::new() };
    for name in corpus::names()? {
        let unpacked = tempfile::tempdir()?;
        for volume in Case::open(&name)?.unpack_volumes(unpacked.path())? {
            seeds.taken.clear();
            let volume = fs::read(volume)?;
            seeds.add("volume", front(&volume))?;
            walk(&volume, &mut seeds)?;
        }
        let keys = corpus::folder().join(&name).join("keys");
        for (folder, target) in [(keys.join("volumes"), "volume_key"), (keys, "pki_pem")] {
            for file in fs::read_dir(folder).into_iter().flatten() {
                let file = file?.path();
                if file.is_file() {
                    seeds.add(target, &fs::read(file)?)?;
                }
            }
        }
    }
    for (target, bytes) in super::disk_seeds::all()? {
        seeds.taken.clear();
        seeds.add(target, &bytes)?;
    }
    for (target, count) in &seeds.count {
        println!("fuzz/corpus/{target}: {count} seeds");
    }
    Ok(())
}

/// The target that takes the payload of a stream type, and how many bytes in front of it are not the target's.
fn target_of(stream: u32) -> Option<(&'static str, usize)> {
    /// Sparse data starts with its offset in the file.
    const OFFSET: usize = 8;
    let target = match stream {
        7 => return Some(("codec_zlib", OFFSET)),
        30 => return Some(("codec_header", OFFSET)),
        1 => "attributes",
        4 => "codec_zlib",
        29 => "codec_header",
        22 => "pki_session",
        19 => "pki_signature",
        11 | 12 | 31 => "win32",
        26 | 28 | 34 => "plugin",
        1000..=1022 => "acl",
        1987..=1999 => "xattr",
        _ => return None,
    };
    Some((target, 0))
}

/// As many whole blocks at the start of `volume` as fit into a seed.
fn front(volume: &[u8]) -> &[u8] {
    let mut end = 0;
    while let Some((header, records)) = volume.get(end..).and_then(split_block) {
        let next = end + header + records.len();
        if next > SEED_BYTES_MAX {
            break;
        }
        end = next;
    }
    &volume[..end]
}

fn walk(volume: &[u8], seeds: &mut Seeds<'_>) -> Result<()> {
    let mut rest = volume;
    while let Some((header, records)) = split_block(rest) {
        let length = header + records.len();
        seeds.add("block", &rest[..length])?;
        // An encrypted block's records are noise; the volume key has a target of its own.
        let encrypted = header == 32 && rest[3] & 4 != 0;
        if !encrypted {
            walk_records(records, seeds)?;
        }
        rest = &rest[length..];
    }
    Ok(())
}

/// The length of the header of the block at the start of `bytes`, and its records.
fn split_block(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let header = match bytes.get(12..16)? {
        b"BB02" => 24,
        b"BB03" => 32,
        _ => return None,
    };
    let length = usize::try_from(word(bytes, 4)?).ok()?;
    Some((header, bytes.get(header..length)?))
}

fn walk_records(mut records: &[u8], seeds: &mut Seeds<'_>) -> Result<()> {
    while let (Some(file_index), Some(stream), Some(length)) = (word(records, 0), word(records, 4), word(records, 8)) {
        let end = 12usize.saturating_add(length as usize);
        let Some(payload) = records.get(12..end) else { return seeds.add("record", records) };
        seeds.add("record", &records[..end])?;
        match file_index.cast_signed() {
            -1 | -2 => seeds.add("volume_label", payload)?,
            -4 | -5 => seeds.add("session_label", payload)?,
            index if index > 0 && stream.cast_signed() > 0 => {
                if let Some((target, skip)) = target_of(stream & STREAM_TYPE) {
                    seeds.add(target, payload.get(skip..).unwrap_or_default())?;
                }
                if stream & STREAM_TYPE == 1
                    && let Some(stat) = payload.split(|byte| *byte == 0).nth(1)
                {
                    seeds.add("lstat", stat)?;
                }
            }
            _ => {}
        }
        records = &records[end..];
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

struct Seeds<'a> {
    folder: &'a Path,
    /// Seeds written, by target.
    count: BTreeMap<&'static str, usize>,
    /// Seeds taken from this volume, by target.
    taken: BTreeMap<&'static str, usize>,
    seen: HashSet<(&'static str, String)>,
}

impl Seeds<'_> {
    fn add(&mut self, target: &'static str, bytes: &[u8]) -> Result<()> {
        let taken = self.taken.entry(target).or_default();
        if *taken >= SEEDS_PER_VOLUME || bytes.len() > SEED_BYTES_MAX {
            return Ok(());
        }
        let digest = Sha256::digest(bytes);
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        if self.seen.insert((target, name.clone())) {
            *taken += 1;
            *self.count.entry(target).or_default() += 1;
            let folder = self.folder.join(target);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(name), bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_volumes_give_seeds_for_every_parser() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        for target in [
            "volume",
            "block",
            "record",
            "volume_label",
            "session_label",
            "attributes",
            "lstat",
            "acl",
            "xattr",
            "codec_zlib",
            "codec_header",
            "pki_session",
            "pki_signature",
            "plugin",
            "volume_key",
            "pki_pem",
            "partition_table",
            "lvm",
        ] {
            let seeds = fs::read_dir(folder.path().join(target)).map(Iterator::count).unwrap_or(0);
            assert!(seeds > 0, "no seed for {target}");
        }
    }
}
