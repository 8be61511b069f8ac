//! The data that the benchmark volumes hold, made from a seed: the same on every machine and in every run.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// Bytes of the incompressible disk image: 3.5 GiB.
pub const DISK_BYTES: u64 = 7 << 29;
/// Number of small files beside it; their sizes are spread evenly over 1 to 30 KiB.
pub const SMALL_FILES: u32 = 40_000;
/// Bytes of the one big compressible file.
const TEXT_BYTES: u64 = 512 << 20;
/// Number of smaller compressible files, 128 KiB each: another 512 MiB.
const TEXT_FILES: u32 = 4_096;
const TEXT_FILE_BYTES: u64 = 128 << 10;
/// Files in one folder, so that listing a folder is not what is measured.
const FILES_IN_FOLDER: u32 = 500;

/// SplitMix64: incompressible, and faster than a disk.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// Makes `folder/disk.img` and `folder/small/`: a machine's disk and a file server's files.
pub fn disk_and_small_files(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut random = Random(1);
    incompressible(&folder.join("disk.img"), DISK_BYTES, &mut random)?;
    for number in 0..SMALL_FILES {
        let size = 1024 + random.next() % (29 * 1024 + 1);
        let file = numbered(&folder.join("small"), number)?;
        incompressible(&file, size, &mut random)?;
    }
    Ok(())
}

/// Makes `folder/big.log` and `folder/logs/`: 1 GiB of log-like text, of which gzip leaves about a third.
pub fn compressible(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut random = Random(2);
    text(&folder.join("big.log"), TEXT_BYTES, &mut random)?;
    for number in 0..TEXT_FILES {
        let file = numbered(&folder.join("logs"), number)?;
        text(&file, TEXT_FILE_BYTES, &mut random)?;
    }
    Ok(())
}

fn numbered(folder: &Path, number: u32) -> Result<std::path::PathBuf> {
    let folder = folder.join(format!("{:03}", number / FILES_IN_FOLDER));
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("file-{number:06}")))
}

fn incompressible(file: &Path, size: u64, random: &mut Random) -> Result<()> {
    let mut out = File::create(file).with_context(|| format!("{}", file.display()))?;
    let mut buffer = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        random.fill(&mut buffer[..now]);
        out.write_all(&buffer[..now])?;
        left -= now as u64;
    }
    Ok(())
}

fn text(file: &Path, size: u64, random: &mut Random) -> Result<()> {
    const WORDS: [&str; 16] = [
        "accepted",
        "connection",
        "from",
        "backup",
        "client",
        "volume",
        "storage",
        "daemon",
        "error",
        "while",
        "reading",
        "block",
        "session",
        "closed",
        "timeout",
        "retry",
    ];
    let mut out = BufWriter::with_capacity(1 << 20, File::create(file).with_context(|| format!("{}", file.display()))?);
    let mut left = size;
    let mut line = Vec::with_capacity(128);
    while left > 0 {
        let number = random.next();
        line.clear();
        write!(line, "2026-01-{:02} {:016x}", number % 28 + 1, random.next())?;
        for shift in (0..40).step_by(4) {
            write!(line, " {}", WORDS[(number >> shift) as usize % WORDS.len()])?;
        }
        line.push(b'\n');
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(line.len());
        out.write_all(&line[..now])?;
        left -= now as u64;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_kinds_of_data_are_what_they_are_called() {
        let folder = tempfile::tempdir().unwrap();
        let ratio = |name: &str| {
            let data = fs::read(folder.path().join(name)).unwrap();
            zstd::bulk::compress(&data, 3).unwrap().len() * 100 / data.len()
        };
        incompressible(&folder.path().join("random"), 1 << 20, &mut Random(1)).unwrap();
        text(&folder.path().join("text"), 1 << 20, &mut Random(1)).unwrap();
        assert!(ratio("random") >= 100, "{}", ratio("random"));
        assert!((10..50).contains(&ratio("text")), "{}", ratio("text"));
        assert_eq!(fs::metadata(folder.path().join("text")).unwrap().len(), 1 << 20);
    }
}
