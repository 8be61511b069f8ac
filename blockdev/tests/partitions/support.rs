//! What these tests share: tools, disks in files and in memory, and checksums.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use blockdev::{
    BlockDevice, BlockSizes, Result,
    file::HostFile,
    layers::AsDevice,
    partitions::{self, Survey, Volume},
};
use sha2::{Digest, Sha256};

#[path = "../../../tests/src/random.rs"]
mod random;
pub use random::Random;

pub fn file(path: &Path, sizes: BlockSizes) -> Arc<dyn BlockDevice> {
    Arc::new(AsDevice::new(HostFile::open(path).unwrap(), sizes))
}

pub fn memory(bytes: Vec<u8>) -> Arc<dyn BlockDevice> {
    Arc::new(AsDevice::new(bytes, BlockSizes::CLASSIC))
}

/// The survey of one disk of 512-byte sectors.
pub fn survey_of(disk: Arc<dyn BlockDevice>) -> Survey {
    partitions::survey(&[("disk0".to_owned(), disk)])
}

pub fn sparse(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

pub fn named<'a>(survey: &'a Survey, name: &str) -> &'a Volume {
    survey.volumes.iter().find(|v| v.name == name).unwrap_or_else(|| panic!("no {name} in {survey:#?}"))
}

/// The checksum of all of `device`, read in pieces of an odd size.
pub fn sha256(device: &dyn BlockDevice) -> Result<String> {
    let mut digest = Sha256::new();
    let (mut buf, mut at) = (vec![0; 100_001], 0);
    loop {
        match device.read_at(&mut buf, at)? {
            0 => return Ok(digest.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => {
                digest.update(&buf[..n]);
                at += n as u64;
            }
        }
    }
}

/// The path of `program`, which may lie where only root looks; says so and gives `None` when it is not installed.
pub fn tool(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').chain(["/sbin", "/usr/sbin"]).map(|d| Path::new(d).join(program)).find(|p| p.exists());
    if found.is_none() {
        println!("skipped: {program} is not installed");
    }
    found
}

/// Runs `program` with `input`; its output.
pub fn run(program: &Path, arguments: &[&str], input: &str) -> String {
    let stdin = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&stdin, input.as_bytes(), 0).unwrap();
    let output = Command::new(program).args(arguments).stdin(stdin).env("LC_ALL", "C.UTF-8").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} {arguments:?}: {out}{err}", program.display());
    out.into_owned()
}

/// The folder of kept disks.
pub fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/disks")
}

/// The disks of the kept case `name`, in their order.
pub fn disks(name: &str) -> Vec<(String, Arc<dyn BlockDevice>)> {
    let mut files: Vec<_> = fs::read_dir(kept().join(name)).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let disk = |path: &PathBuf| {
        let bytes = zstd::decode_all(File::open(path).unwrap()).unwrap();
        (path.file_stem().unwrap().to_string_lossy().into_owned(), memory(bytes))
    };
    files.iter().map(disk).collect()
}
