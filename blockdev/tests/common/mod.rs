//! What the tests of the image formats share: random bytes, sparse contents, `qemu-img`, and a comparison that asks a
//! disk in every way it can be asked.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use blockdev::{
    ExtentKind, ReadAt, Result,
    file::HostFile,
    images::{
        self, Disk, Image,
        gate::{HostFolder, Neighbours},
    },
};

#[path = "../../../tests/src/random.rs"]
mod random;
pub use random::Random;

/// Write a disk of `size` bytes to `path`: holes, noise and text in pieces of very different lengths.
pub fn write_sparse(path: &Path, size: u64, random: &mut Random) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut at = random.below(200_000);
    while at < size {
        let longest = 1 << random.below(20);
        let len = (1 + random.below(longest)).min(size - at);
        let bytes = match random.below(3) {
            0 => b"All work and no play makes Jack a dull boy.\n".iter().copied().cycle().take(len as usize).collect(),
            _ => random.bytes(len as usize),
        };
        file.write_all_at(&bytes, at).unwrap();
        at += len + random.below((size / 16).max(1));
    }
}

/// Run a tool that has to succeed.
pub fn run(tool: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) {
    let mut command = Command::new(tool);
    command.args(arguments);
    let output = command.output().unwrap_or_else(|e| panic!("{tool} is needed for this test: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `path` as a raw disk, by `qemu-img`, in `raw`.
pub fn qemu_raw(format: &str, path: &Path, raw: &Path) -> HostFile {
    let arguments: [&OsStr; 9] = [
        "convert".as_ref(),
        "-t".as_ref(),
        "unsafe".as_ref(),
        "-f".as_ref(),
        format.as_ref(),
        "-O".as_ref(),
        "raw".as_ref(),
        path.as_ref(),
        raw.as_ref(),
    ];
    run("qemu-img", arguments);
    HostFile::open(raw).unwrap()
}

/// A real image, unpacked into `folder` under its name without the compression's; `None`, and a word about it, where
/// there are no real images.
pub fn real_image(name: &str, folder: &Path) -> Option<PathBuf> {
    let Some(testdata) = std::env::var_os("REVENANT_TESTDATA") else {
        eprintln!("skipped: {name} is found only with REVENANT_TESTDATA");
        return None;
    };
    let packed = Path::new(&testdata).join("images").join(name);
    let mut unpacked = folder.join(packed.file_name().unwrap());
    let tool = match packed.extension().and_then(OsStr::to_str) {
        Some("zst") => "zstd",
        Some("bz2") => "bzip2",
        Some("gz") => "gzip",
        _ => {
            std::fs::copy(&packed, &unpacked).unwrap();
            return Some(unpacked);
        }
    };
    unpacked.set_extension("");
    let output = File::create(&unpacked).unwrap();
    let status = Command::new(tool).arg("-dc").arg(&packed).stdout(output).status().unwrap();
    assert!(status.success(), "{tool} -dc {}", packed.display());
    Some(unpacked)
}

/// The image at `path` with the files beside it.
pub fn open(path: &Path) -> Result<Image> {
    let folder = HostFolder::open(path.parent().unwrap())?;
    images::open(path.file_name().unwrap().to_str().unwrap(), Arc::new(HostFile::open(path)?), None, &folder)
}

/// Files in memory.
#[derive(Default)]
pub struct Folder(pub HashMap<String, Arc<dyn ReadAt>>);

impl Folder {
    pub fn of(files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Self {
        Self(files.into_iter().map(|(name, bytes)| (name.to_owned(), Arc::new(bytes) as Arc<dyn ReadAt>)).collect())
    }
}

impl Neighbours for Folder {
    fn find(&self, name: &str) -> Result<Option<Arc<dyn ReadAt>>> {
        Ok(self.0.get(name).cloned())
    }
}

/// `disk` has the bytes of `expected`: read from end to end in odd steps and at random, and its holes are zeros.
pub fn assert_same(disk: &Disk, expected: &dyn ReadAt, random: &mut Random) {
    let size = expected.size();
    assert_eq!(disk.size(), size, "the size");
    let mut at = 0;
    while at < size {
        at += assert_same_at(disk, expected, at, 1_000_003);
    }
    for _ in 0..2000.min(size) {
        assert_same_at(disk, expected, random.below(size), 1 + random.below(100_000) as usize);
    }
    let (mut at, mut buffer, zeros) = (0, vec![0xff; 1 << 20], vec![0; 1 << 20]);
    while let Some(extent) = disk.extent_at(at).unwrap() {
        assert!(extent.range.start == at && extent.range.end > at && extent.range.end <= size, "{extent:?} at {at}");
        while extent.kind == ExtentKind::Hole && at < extent.range.end {
            let len = (extent.range.end - at).min(1 << 20) as usize;
            expected.read_at(&mut buffer[..len], at).unwrap();
            // A comparison of slices is fast without optimization, too.
            assert!(buffer[..len] == zeros[..len], "data in a hole near {at}");
            at += len as u64;
        }
        at = extent.range.end;
    }
    assert_eq!(at, size, "the extents end early");
}

fn assert_same_at(disk: &Disk, expected: &dyn ReadAt, at: u64, len: usize) -> u64 {
    let mut both = [vec![0xff; len], vec![0xee; len]];
    let [ours, theirs] = &mut both;
    let n = disk.read_at(ours, at).unwrap();
    assert_eq!(n, expected.read_at(theirs, at).unwrap(), "bytes at {at}");
    assert!(ours[..n] == theirs[..n], "the {n} bytes at {at} differ");
    n as u64
}

/// What anybody does with a disk that may be hostile: its ends, some of its middle, and a thousand of its extents.
pub fn touch(image: &Image) {
    const READ_MAX: u64 = 64 << 20;
    const STEP: u64 = 1 << 20;
    let disk = &image.disk;
    let mut buffer = vec![0; STEP as usize];
    let mut at = 0;
    while at < disk.size().min(READ_MAX - 2 * STEP) {
        let _ = disk.read_at(&mut buffer, at);
        at += STEP;
    }
    let _ = disk.read_at(&mut buffer, disk.size().saturating_sub(STEP));
    let _ = disk.read_at(&mut buffer, disk.size() / 2);
    let mut at = 0;
    for _ in 0..1000 {
        match disk.extent_at(at) {
            Ok(Some(extent)) => at = extent.range.end,
            Ok(None) => break,
            Err(_) => at = at.saturating_add(STEP),
        }
    }
}

/// Change a few bytes: mostly in the header and the tables behind it, some in the footer, some to what hurts most.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let size = bytes.len() as u64;
    for _ in 0..1 + random.below(6) {
        let at = match random.below(8) {
            0..3 => random.below(size.min(96)),
            3..6 => random.below(size.min(96 << 10)),
            6 => size - 1 - random.below(size.min(2048)),
            _ => random.below(size),
        } as usize;
        match random.below(4) {
            0 => bytes[at] = 0xff,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = random.next() as u8,
            _ => {
                let end = bytes.len().min(at + 4);
                let value = [0, 1, u32::MAX, 1 << 31, random.next() as u32][random.below(5) as usize];
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
        }
    }
    if random.below(10) == 0 {
        bytes.truncate(random.below(size) as usize);
    }
}
