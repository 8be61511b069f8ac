//! Seeds for the targets that look at disks: the heads of the disks in `tests/data/disks`, the metadata text of their
//! volume groups, and partition tables, which are made by `sfdisk` where it is installed.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::cmd;

/// Bytes at the head of a disk that make a seed: labels and superblocks lie in them.
const HEAD: usize = 9 << 10;
/// The identifier that the target `lvm` gives its physical volume.
const PV_ID: &str = "000000-0000-0000-0000-0000-0000-00fuzz";

/// Each seed with its target.
pub fn all() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut seeds = Vec::new();
    let folder = cmd::root().join("tests/data/disks");
    for case in fs::read_dir(folder)?.filter_map(|entry| entry.ok().map(|e| e.path())).filter(|path| path.is_dir()) {
        for disk in fs::read_dir(case)? {
            let bytes = zstd::decode_all(File::open(disk?.path())?)?;
            let head = bytes.get(..HEAD.min(bytes.len())).unwrap_or_default();
            seeds.push(("partition_table", [&[0], head].concat()));
            // The newest metadata begins a sector of its first area.
            for sector in bytes.chunks(512).take(2048).enumerate().filter(|(_, s)| s.starts_with(b"vg")) {
                let text = bytes.get(sector.0 * 512..).unwrap_or_default();
                let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
                seeds.push(("lvm", with_id(&String::from_utf8_lossy(text)).into_bytes()));
            }
        }
    }
    for script in ["label: gpt\nsize=1M,name=one\nsize=1M\n", "label: dos\nsize=1M\nsize=4M,type=5\nsize=1M\nsize=1M\n"]
    {
        seeds.extend(table(script)?.map(|table| ("partition_table", table)));
    }
    Ok(seeds)
}

/// `text` with the target's identifier instead of that of the first physical volume.
fn with_id(text: &str) -> String {
    let first = text.find("physical_volumes").and_then(|at| text[at..].split("id = \"").nth(1)?.split('"').next());
    first.map_or_else(|| text.to_owned(), |id| text.replace(id, PV_ID))
}

/// The first bytes of a disk that `sfdisk` divided as `script` says.
fn table(script: &str) -> Result<Option<Vec<u8>>> {
    let Some(sfdisk) = cmd::find("sfdisk") else { return Ok(None) };
    let disk = tempfile::NamedTempFile::new()?;
    disk.as_file().set_len(8 << 20)?;
    let mut child =
        Command::new(sfdisk).arg("-q").arg(disk.path()).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    let made = child.wait()?.success();
    let bytes = fs::read(disk.path())?;
    Ok(made.then(|| [&[0], bytes.get(..HEAD).unwrap_or_default()].concat()))
}
