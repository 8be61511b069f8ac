//! qcow2: against `qemu-img` and `qemu-io`, which make and read every kind of image here.

mod bitmaps;
mod chains;
#[path = "../common/mod.rs"]
mod common;
mod kinds;
mod refused;
mod snapshots;

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use blockdev::{
    ErrorKind, ReadAt,
    file::HostFile,
    images::{Disk, Image},
};
use common::{Random, run};

/// A folder and what is made in it.
struct Lab {
    folder: tempfile::TempDir,
    random: Random,
}

impl Lab {
    fn new(seed: u64) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), random: Random(seed) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Run `qemu-img` in the folder: words separated by spaces.
    fn img(&self, arguments: &str) {
        self.tool("qemu-img", arguments.split_whitespace());
    }

    /// Run `qemu-io` on `name`, each command one argument.
    fn io(&self, name: &str, commands: &[String]) {
        let commands = commands.iter().flat_map(|c| ["-c", c.as_str()]);
        self.tool("qemu-io", ["-t", "unsafe", "-d", "unmap", "-f", "qcow2"].into_iter().chain(commands).chain([name]));
    }

    /// As [`io`](Self::io), and then end as if by `kill -9`.
    fn io_and_crash(&self, name: &str, command: &str) {
        let arguments = ["-f", "qcow2", "-c", command, "-c", "flush", "-c", "abort", name];
        let mut qemu = Command::new("qemu-io");
        // No core file, and no word about it.
        let output = qemu.current_dir(self.folder.path()).args(arguments).output().unwrap();
        assert!(!output.status.success(), "qemu-io should have crashed");
    }

    fn tool<'a>(&'a self, tool: &'a str, arguments: impl Iterator<Item = &'a str>) {
        let folder = ["-C".as_ref(), self.folder.path().as_os_str(), tool.as_ref()];
        run("env", folder.into_iter().chain(arguments.map(OsStr::new)));
    }

    /// A raw disk with something in it.
    fn raw(&mut self, name: &str, size: u64) {
        common::write_sparse(&self.path(name), size, &mut self.random);
    }

    /// Do everything to the image `name`, whose disk has `size` bytes, that can be done to it. Not all kinds of images
    /// know compressed clusters.
    fn scribble(&mut self, name: &str, size: u64, count: usize, compressed: bool) {
        let mut commands = Vec::new();
        for _ in 0..count {
            let longest = 1 << (9 + self.random.below(11));
            let at = self.random.below(size) & !511;
            let len = (512 + (self.random.below(longest) & !511)).min(size - at);
            let pattern = 1 + self.random.below(255);
            commands.push(match self.random.below(8) {
                0 => format!("write -z {at} {len}"),
                1 => format!("write -z -u {at} {len}"),
                2 => format!("discard {at} {len}"),
                _ => format!("write -P {pattern} {at} {len}"),
            });
        }
        self.io(name, &commands);
        for _ in 0..if compressed { count / 8 } else { 0 } {
            // Whole clusters only, of all sizes. QEMU compresses none that were written before, and says so.
            let at = self.random.below(size) & !((2 << 20) - 1);
            let command = format!("write -c -P {} {at} {}", self.random.below(256), (2 << 20).min(size - at));
            let mut qemu = Command::new("qemu-io");
            qemu.current_dir(self.folder.path()).args(["-t", "unsafe", "-f", "qcow2", "-c", &command, name]);
            qemu.output().unwrap();
        }
    }

    /// The image `name` reads as QEMU reads it.
    fn check(&mut self, name: &str) -> Image {
        // In the folder: QEMU looks for data files in its own.
        self.img(&format!("convert -t unsafe -f qcow2 -O raw {name} expected"));
        let expected = HostFile::open(&self.path("expected")).unwrap();
        let image = common::open(&self.path(name)).unwrap();
        common::assert_same(&image.disk, &expected, &mut self.random);
        fs::remove_file(self.path("expected")).unwrap();
        image
    }

    fn file(&self, name: &str) -> Arc<HostFile> {
        Arc::new(HostFile::open(&self.path(name)).unwrap())
    }

    /// Write `bytes` over what is at `at` of a file.
    fn patch(&self, name: &str, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path(name)).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    /// Opening `name` fails with `kind`, and the message has all of `words`.
    fn refused(&self, name: &str, kind: ErrorKind, words: &[&str]) {
        let Err(error) = common::open(&self.path(name)) else { panic!("{name} was opened") };
        assert_eq!(error.kind(), kind, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "no {word:?} in: {error}");
        }
    }
}

fn read_all(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    assert_eq!(disk.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn be32(path: &Path, at: usize) -> u32 {
    u32::from_be_bytes(*fs::read(path).unwrap()[at..].first_chunk().unwrap())
}

fn be64(path: &Path, at: usize) -> u64 {
    u64::from_be_bytes(*fs::read(path).unwrap()[at..].first_chunk().unwrap())
}
