//! Seeds for the reader of VMDKs: small disks in each variant, made by `qemu-img`, and by the
//! tests' makers where it makes none.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::cmd;

#[path = "../../../blockdev/tests/vmdk/maker.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod maker;

use maker::Grain;

/// Bytes of the disk in a seed.
const DISK: usize = 256 << 10;

/// Writes the seeds under `folder`, one folder a target.
pub fn write(folder: &Path) -> Result<()> {
    vmdk(&folder.join("image_vmdk"))
}

/// Seeds of `image_vmdk`: the length of the first file, that file, and the one beside it.
fn vmdk(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let seed = |name: &str, first: &[u8], other: &[u8]| {
        let length = u32::try_from(first.len())?.to_le_bytes();
        anyhow::Ok(fs::write(folder.join(name), [&length, first, other].concat())?)
    };
    let mut content = vec![0; DISK];
    content[70_000..70_100].fill(b'x');
    content[DISK - 512..].fill(b'y');
    let sectors = DISK / 512;

    let mut grains = vec![Grain::Absent; DISK / 4096];
    grains[17] = Grain::Data;
    grains[18] = Grain::Zero;
    grains[20] = Grain::Unmapped;
    let descriptor = |kind, extent| maker::descriptor(1, u32::MAX, kind, &format!("RW {sectors} {extent} \"x\""));
    let sesparse = maker::sesparse(&content, &grains, |_| 3);
    seed("sesparse", &sesparse, &[])?;
    seed("sesparse-described", &descriptor("seSparse", "SESPARSE"), &sesparse)?;
    let cowd = maker::cowd(&content, 4096, &grains, &(0..grains.len()).collect::<Vec<_>>());
    seed("cowd", &cowd, &[])?;
    seed("cowd-described", &descriptor("vmfsSparse", "VMFSSPARSE"), &cowd)?;
    seed("flat-described", &descriptor("vmfs", "VMFS"), &content[..1024])?;
    let (stream, parts) = maker::stream(
        &content,
        &[Grain::Absent, Grain::Data, Grain::Absent, Grain::Data],
        &descriptor("streamOptimized", "SPARSE"),
    );
    seed("stream", &stream, &[])?;
    seed("stream-cut", &stream[..parts[2]], &[])?;

    let temporary = tempfile::tempdir()?;
    let raw = temporary.path().join("disk.raw");
    fs::write(&raw, &content)?;
    if !super::has_qemu_img("some of image_vmdk") {
        return Ok(());
    }
    for kind in ["monolithicSparse", "streamOptimized", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let image = temporary.path().join(format!("{kind}.vmdk"));
        let mut convert = cmd::command("qemu-img", ["convert", "-f", "raw", "-O", "vmdk", "-o"]);
        cmd::run(convert.arg(format!("subformat={kind}")).arg(&raw).arg(&image))?;
        let extent = ["s", "f"].map(|letter| temporary.path().join(format!("{kind}-{letter}001.vmdk")));
        let other = extent.iter().find(|path| path.exists()).map_or(Ok(Vec::new()), fs::read)?;
        seed(kind, &fs::read(&image)?, &other)?;
    }
    Ok(())
}
