//! Volumes too big or too slow to be made by stock Bacula, written in its format, each with a catalog.
//!
//! One job of uncompressed files in BB02 blocks of the default size, as a stock 9.6 storage daemon lays them out.
//! Payload that is zero becomes a hole of the volume file.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::fixtures::Fixture;
use super::minimal_catalog::{MinimalCatalog, Range, Stat};

/// Default *Maximum Block Size*.
const BLOCK_BYTES: usize = 64_512;
const BLOCK_HEADER: usize = 24;
const RECORD_HEADER: usize = 12;
/// What the file daemon reads at a time, and so the size of a data record.
const READ_BYTES: u64 = 65_536;
/// Default *Maximum File Size*: a JobMedia row covers no more.
const RANGE_BYTES: u64 = 1_000_000_000;

const STREAM_ATTRIBUTES: i32 = 1;
const STREAM_DATA: i32 = 2;
const VOLUME_LABEL: i32 = -2;
const SOS_LABEL: i32 = -4;
const EOS_LABEL: i32 = -5;

const SESSION_ID: u32 = 1;
/// When the storage daemon is said to have started, the data to have been written and the job to have run.
pub(super) const TIME: u32 = 1_767_225_600;
pub(super) const JOB_ID: u32 = 1;

/// The folder of the volumes, in that of all fixtures.
const FOLDER: &str = "synthetic";

/// Writes a configuration with which stock tools read the synthetic volumes under `folder`.
pub fn stock_configuration(folder: &Path) -> Result<PathBuf> {
    let file = folder.join("synthetic-sd.conf");
    let (here, device) = (folder.display(), folder.join(FOLDER));
    let text = format!(
        r#"Storage {{ Name = bench-sd; Working Directory = "{here}"; Pid Directory = "{here}" }}
Director {{ Name = bench-dir; Password = "none" }}
Messages {{ Name = Standard; stdout = all }}
Device {{
  Name = synthetic; Media Type = synthetic; Device Type = File; Archive Device = "{}"
  Random Access = yes; RemovableMedia = no; AutomaticMount = yes; AlwaysOpen = no
}}
"#,
        device.display()
    );
    std::fs::write(&file, text)?;
    Ok(file)
}

/// A volume of one file of 64 GiB of zeros; takes about 8 GiB on disk, in headers.
pub fn one_big_file(folder: &Path, name: &str) -> Result<Fixture> {
    big_file(folder, name, 64 << 30)
}

fn big_file(folder: &Path, name: &str, bytes: u64) -> Result<Fixture> {
    let mut job = Job::create(folder, name)?;
    let path = "/srv/synthetic/disk.img";
    job.file(path, bytes, &[])?;
    job.directory("/srv/synthetic/")?;
    job.finish(path, bytes)
}

/// A volume of `count` files of 16 to 79 bytes, 1,000 in a folder.
pub fn many_files(folder: &Path, name: &str, count: u32) -> Result<Fixture> {
    let mut job = Job::create(folder, name)?;
    let (mut first, mut first_bytes) = (String::new(), 0);
    for number in 0..count {
        let path = format!("/srv/synthetic/d{:04}/file-{number:07}", number / 1000);
        let data = format!("{number:0width$}", width = 16 + number as usize % 64);
        job.file(&path, data.len() as u64, data.as_bytes())?;
        if number % 1000 == 999 || number + 1 == count {
            job.directory(&format!("/srv/synthetic/d{:04}/", number / 1000))?;
        }
        if number == 0 {
            (first, first_bytes) = (path, data.len() as u64);
        }
    }
    job.directory("/srv/synthetic/")?;
    job.finish(&first, first_bytes)
}

/// A job being written, to the volume and to the catalog.
struct Job<'a> {
    folder: &'a Path,
    name: &'a str,
    volume: VolumeWriter,
    catalog: MinimalCatalog,
    file_index: u32,
    bytes: u64,
}

impl<'a> Job<'a> {
    fn create(folder: &'a Path, name: &'a str) -> Result<Self> {
        let device = folder.join(FOLDER);
        std::fs::create_dir_all(&device)?;
        let mut volume = VolumeWriter::create(&device.join(format!("{name}-0001")))?;
        volume.record(VOLUME_LABEL, 0, &volume_label(name))?;
        volume.flush_block()?;
        volume.begin_ranges();
        volume.record(SOS_LABEL, JOB_ID.cast_signed(), &session_label(name, None))?;
        let catalog = MinimalCatalog::create(&folder.join(format!("{name}.sqlite")), name)?;
        Ok(Self { folder, name, volume, catalog, file_index: 0, bytes: 0 })
    }

    /// A regular file of `bytes` bytes: `data`, then zeros.
    fn file(&mut self, path: &str, bytes: u64, data: &[u8]) -> Result<()> {
        self.attributes(path, 3, &Stat::file(self.file_index + 1, bytes, TIME))?;
        let index = i32::try_from(self.file_index)?;
        let mut at = 0;
        while at < bytes {
            let now = READ_BYTES.min(bytes - at);
            let start = usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
            let part = &data[start..data.len().min(start + usize::try_from(now)?)];
            self.volume.record_of(index, STREAM_DATA, part, usize::try_from(now)?)?;
            at += now;
        }
        self.bytes += bytes;
        Ok(())
    }

    /// A directory; `path` ends with a slash, and its content has been written.
    fn directory(&mut self, path: &str) -> Result<()> {
        self.attributes(path, 5, &Stat::directory(self.file_index + 1, TIME))
    }

    fn attributes(&mut self, path: &str, file_type: u32, stat: &Stat) -> Result<()> {
        self.file_index += 1;
        let lstat = stat.encode();
        let payload = format!("{} {file_type} {path}\0{lstat}\0\0\0{}\0", self.file_index, 0);
        self.volume.record(i32::try_from(self.file_index)?, STREAM_ATTRIBUTES, payload.as_bytes())?;
        self.catalog.file(self.file_index, path, &lstat)
    }

    fn finish(mut self, big_file: &str, big_file_bytes: u64) -> Result<Fixture> {
        let end = session_label(self.name, Some((self.file_index, self.bytes)));
        self.volume.record(EOS_LABEL, JOB_ID.cast_signed(), &end)?;
        let (volume_bytes, ranges) = self.volume.finish()?;
        self.catalog.finish(self.file_index, self.bytes, volume_bytes, &ranges)?;
        Ok(Fixture {
            name: self.name.to_owned(),
            volume: self.folder.join(FOLDER).join(format!("{}-0001", self.name)),
            catalog: self.folder.join(format!("{}.sqlite", self.name)),
            big_file: big_file.to_owned(),
            raw: None,
            big_file_bytes,
            volume_bytes,
        })
    }
}

/// Cuts records into blocks and writes them, leaving zeros out.
struct VolumeWriter {
    file: File,
    /// Address of the block being filled.
    address: u64,
    number: u32,
    block: Vec<u8>,
    /// Parts of `block` to be written, in order; the rest is holes.
    written: Vec<(usize, usize)>,
    /// The last FileIndex seen, and the one that the open JobMedia range starts with.
    file_index: u32,
    range_start: u64,
    range_first: u32,
    ranges: Vec<Range>,
}

impl VolumeWriter {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("{}", path.display()))?;
        let mut writer = Self {
            file,
            address: 0,
            number: 0,
            block: Vec::with_capacity(BLOCK_BYTES),
            written: Vec::new(),
            file_index: 0,
            range_start: 0,
            range_first: 1,
            ranges: Vec::new(),
        };
        writer.start_block();
        Ok(writer)
    }

    /// The volume label is written; from here on blocks belong to the job.
    fn begin_ranges(&mut self) {
        self.range_start = self.address;
    }

    fn start_block(&mut self) {
        self.block.clear();
        self.block.resize(BLOCK_HEADER, 0);
        self.written.clear();
        self.written.push((0, BLOCK_HEADER));
    }

    fn push(&mut self, bytes: &[u8]) {
        let start = self.block.len();
        self.block.extend_from_slice(bytes);
        match self.written.last_mut() {
            Some((_, end)) if *end == start => *end = self.block.len(),
            _ => self.written.push((start, self.block.len())),
        }
    }

    fn record(&mut self, file_index: i32, stream: i32, payload: &[u8]) -> Result<()> {
        self.record_of(file_index, stream, payload, payload.len())
    }

    /// A record of `length` bytes: `payload`, then zeros.
    fn record_of(&mut self, file_index: i32, stream: i32, payload: &[u8], length: usize) -> Result<()> {
        ensure!(payload.len() <= length, "payload longer than its record");
        // A session label is never split over blocks.
        if file_index < 0 && self.block.len() + RECORD_HEADER + length > BLOCK_BYTES {
            self.flush_block()?;
        }
        let (mut done, mut stream_now) = (0, stream);
        loop {
            if BLOCK_BYTES - self.block.len() < RECORD_HEADER {
                self.flush_block()?;
            }
            self.file_index = u32::try_from(file_index).unwrap_or(self.file_index);
            self.push(&file_index.to_be_bytes());
            self.push(&stream_now.to_be_bytes());
            self.push(&u32::try_from(length - done)?.to_be_bytes());
            let here = (BLOCK_BYTES - self.block.len()).min(length - done);
            let data = &payload[done.min(payload.len())..(done + here).min(payload.len())];
            if !data.is_empty() {
                self.push(data);
            }
            self.block.resize(self.block.len() + here - data.len(), 0);
            done += here;
            if done == length {
                return Ok(());
            }
            self.flush_block()?;
            stream_now = -stream;
        }
    }

    fn flush_block(&mut self) -> Result<()> {
        let length = u32::try_from(self.block.len())?;
        let mut header = Vec::with_capacity(BLOCK_HEADER);
        for word in [0, length, self.number] {
            header.extend_from_slice(&word.to_be_bytes());
        }
        header.extend_from_slice(b"BB02");
        for word in [SESSION_ID, TIME] {
            header.extend_from_slice(&word.to_be_bytes());
        }
        self.block[..BLOCK_HEADER].copy_from_slice(&header);
        let checksum = crc32fast::hash(&self.block[4..]);
        self.block[..4].copy_from_slice(&checksum.to_be_bytes());
        for &(start, end) in &self.written {
            self.file.write_all_at(&self.block[start..end], self.address + start as u64)?;
        }
        self.address += u64::from(length);
        self.number += 1;
        if self.number > 1 && self.address - self.range_start >= RANGE_BYTES {
            self.close_range();
        }
        self.start_block();
        Ok(())
    }

    fn close_range(&mut self) {
        self.ranges.push(Range {
            first_index: self.range_first,
            last_index: self.file_index.max(1),
            start: self.range_start,
            end: self.address - 1,
        });
        self.range_start = self.address;
        self.range_first = self.file_index.max(1);
    }

    fn finish(mut self) -> Result<(u64, Vec<Range>)> {
        self.flush_block()?;
        if self.address > self.range_start {
            self.close_range();
        }
        self.file.set_len(self.address)?;
        self.file.flush()?;
        Ok((self.address, self.ranges))
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn label_head(out: &mut Vec<u8>) {
    string(out, "Bacula 1.0 immortal\n");
    out.extend_from_slice(&11u32.to_be_bytes());
}

fn microseconds() -> [u8; 8] {
    (i64::from(TIME) * 1_000_000).to_be_bytes()
}

fn volume_label(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    label_head(&mut out);
    out.extend_from_slice(&microseconds());
    out.extend_from_slice(&microseconds());
    out.extend_from_slice(&[0; 16]);
    for text in [&format!("{name}-0001"), "", &format!("{name}-pool"), "Backup", &format!("{name}-mt")] {
        string(&mut out, text);
    }
    for text in ["localhost", "bench-sd", "Ver. 9.6.7 10 December 2020", "", ""] {
        string(&mut out, text);
    }
    out.extend_from_slice(&[0; 8 + 3 * 4]);
    out
}

/// An SOS label, or an EOS label if the job's files and bytes are given.
fn session_label(name: &str, totals: Option<(u32, u64)>) -> Vec<u8> {
    let mut out = Vec::new();
    label_head(&mut out);
    out.extend_from_slice(&JOB_ID.to_be_bytes());
    out.extend_from_slice(&microseconds());
    out.extend_from_slice(&[0; 8]);
    for text in [&format!("{name}-pool"), "Backup", name, "bench-fd", &unique_job(name), &format!("{name}-fs")] {
        string(&mut out, text);
    }
    out.extend_from_slice(&u32::from(b'B').to_be_bytes());
    out.extend_from_slice(&u32::from(b'F').to_be_bytes());
    string(&mut out, "synthetic");
    if let Some((files, bytes)) = totals {
        out.extend_from_slice(&files.to_be_bytes());
        out.extend_from_slice(&bytes.to_be_bytes());
        out.extend_from_slice(&[0; 5 * 4]);
        out.extend_from_slice(&u32::from(b'T').to_be_bytes());
    }
    out
}

/// The unique name of the job: its name, date and time.
pub(super) fn unique_job(name: &str) -> String {
    format!("{name}.2026-01-01_00.00.00_01")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd;

    /// Stock `bls` lists a synthetic volume and `bextract` restores it.
    #[test]
    fn stock_tools_read_a_synthetic_volume() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        if cmd::find("bls").is_none() || cmd::find("bextract").is_none() {
            println!("skipped: bls and bextract are not installed");
            return;
        }
        let device = path.join(FOLDER);
        std::fs::create_dir(&device).unwrap();
        let conf = stock_configuration(path).unwrap();
        let stock = |program: &str, volume: &str, rest: &[&std::ffi::OsStr]| {
            let program = cmd::find(program).unwrap();
            let mut command = std::process::Command::new(program);
            command.arg("-c").arg(&conf).args(["-V", volume]).args(rest).current_dir(path);
            String::from_utf8_lossy(&cmd::output(&mut command).unwrap()).into_owned()
        };

        let many = many_files(path, "many", 2_500).unwrap();
        let listing = stock("bls", "many-0001", &[device.as_os_str()]);
        assert_eq!(listing.matches("/srv/synthetic/d").count(), 2_503, "{listing}");
        // 2,500 files, 4 directories; and bls takes the two labels of a job with JobId 1 for attributes, on its own
        // volumes too.
        assert!(listing.contains("2506 files found"), "{listing}");

        let out = path.join("out");
        std::fs::create_dir(&out).unwrap();
        stock("bextract", "many-0001", &[device.as_os_str(), out.as_os_str()]);
        let first = std::fs::read(out.join(&many.big_file[1..])).unwrap();
        assert_eq!(first.len() as u64, many.big_file_bytes);
        assert_eq!(first, format!("{:016}", 0).as_bytes());

        let big = big_file(path, "one", 3 * READ_BYTES + 5).unwrap();
        stock("bextract", "one-0001", &[device.as_os_str(), out.as_os_str()]);
        let restored = std::fs::read(out.join(&big.big_file[1..])).unwrap();
        assert_eq!(restored, vec![0; 3 * READ_BYTES as usize + 5]);
    }

    #[test]
    fn the_catalog_covers_the_volume_without_gaps() {
        let folder = tempfile::tempdir().unwrap();
        let big = big_file(folder.path(), "one", 2 * RANGE_BYTES).unwrap();
        let catalog = rusqlite::Connection::open(&big.catalog).unwrap();
        let mut rows = catalog
            .prepare("SELECT StartFile << 32 | StartBlock, EndFile << 32 | EndBlock FROM JobMedia ORDER BY JobMediaId")
            .unwrap();
        let ranges: Vec<(i64, i64)> =
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
        assert!(ranges.len() >= 2);
        assert!(ranges.windows(2).all(|w| w[0].1 + 1 == w[1].0), "{ranges:?}");
        assert_eq!(ranges.last().unwrap().1 + 1, big.volume_bytes.cast_signed());
        assert_eq!(std::fs::metadata(&big.volume).unwrap().len(), big.volume_bytes);
    }
}
