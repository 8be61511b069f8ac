//! Seeds for the readers of qcow2 and VDI: small disks made by QEMU's tools.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::Result;

use crate::cmd;

/// Bytes of the largest seed: what is behind is data, and the reader only has to miss it.
const SEED_MAX: usize = 96 << 10;

/// Options of `qemu-img create`: the kinds with different tables, all with small clusters.
const QCOW2: [&str; 4] = [
    "compat=0.10,cluster_size=512",
    "cluster_size=512",
    "cluster_size=1k,compression_type=zstd",
    "cluster_size=16k,extended_l2=on",
];

/// Writes the seeds under `folder`, one folder a target.
pub fn write(folder: &Path) -> Result<()> {
    if !super::has_qemu_img("image_qcow2 and image_vdi") {
        return Ok(());
    }
    let temporary = tempfile::tempdir()?;
    let image = temporary.path().join("image");
    for options in QCOW2 {
        img(&["create", "-q", "-f", "qcow2", "-o", options], &image, &["200k"])?;
        io("qcow2", &image, &["write -P 1 5k 9k", "write -c 32k 16k", "write -z 60k 4k", "write -P 2 150k 512"])?;
        img(&["snapshot", "-c", "one"], &image, &[])?;
        if !options.contains("0.10") {
            img(&["bitmap", "--add", "-g", "512"], &image, &["changes"])?;
        }
        io("qcow2", &image, &["write -P 3 6k 3k", "discard 64k 16k", "write -z -u 128k 16k"])?;
        keep(&folder.join("image_qcow2"), options, &image)?;
    }
    for options in ["static=off", "static=on"] {
        img(&["create", "-q", "-f", "vdi", "-o", options], &image, &["5M"])?;
        io("vdi", &image, &["write -P 1 3M 1M", "write -P 2 0 512"])?;
        keep(&folder.join("image_vdi"), options, &image)?;
    }
    Ok(())
}

fn img(arguments: &[&str], image: &Path, more: &[&str]) -> Result<()> {
    cmd::run(cmd::command("qemu-img", arguments).arg(image).args(more))
}

fn io(format: &str, image: &Path, commands: &[&str]) -> Result<()> {
    let mut qemu = cmd::command("qemu-io", ["-f", format]);
    qemu.args(commands.iter().flat_map(|command| ["-c", command])).arg(image).stdout(Stdio::null());
    cmd::run(&mut qemu)
}

fn keep(folder: &Path, name: &str, image: &Path) -> Result<()> {
    let mut bytes = fs::read(image)?;
    bytes.truncate(SEED_MAX);
    fs::create_dir_all(folder)?;
    Ok(fs::write(folder.join(name), bytes)?)
}
