//! Seeds for the readers of VHD and VHDX: small disks made by `qemu-img`, written as the lists of sectors that
//! `fuzz/fuzz_targets/sparse` makes files of.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::cmd;

const SECTOR: usize = 512;
/// Sectors of a seed: the headers and tables and some data.
const SECTORS_MAX: usize = 200;
/// The byte of a footer that says that the image is a differencing one.
const VHD_TYPE: usize = 63;
/// Where the dynamic header has its first parent locator, and the name it leads to.
const VHD_LOCATOR: usize = 512 + 576;

/// Writes the seeds under `folder`, one folder a target.
pub fn write(folder: &Path) -> Result<()> {
    if !super::has_qemu_img("image_vhd and image_vhdx") {
        return Ok(());
    }
    let temporary = tempfile::tempdir()?;
    let [raw, image] = ["disk.raw", "disk.image"].map(|name| temporary.path().join(name));
    let mut content = vec![0; 5 << 20];
    content[70_000..70_100].fill(b'x');
    content[(4 << 20)..(4 << 20) + 3000].fill(b'y');
    fs::write(&raw, &content)?;
    let variants = [
        ("image_vhd", "vpc", "subformat=fixed"),
        ("image_vhd", "vpc", "subformat=dynamic"),
        ("image_vhdx", "vhdx", "subformat=fixed,block_size=1M,block_state_zero=off"),
        ("image_vhdx", "vhdx", "subformat=dynamic,block_size=2M"),
    ];
    for (target, format, options) in variants {
        let mut convert = cmd::command("qemu-img", ["convert", "-f", "raw", "-O", format, "-o", options]);
        cmd::run(convert.arg(&raw).arg(&image))?;
        let mut bytes = fs::read(&image)?;
        let folder = folder.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(options), sparse(&bytes)?)?;
        if options == "subformat=dynamic" {
            // As a differencing image; the target puts the checksums right.
            let footer = bytes.len() - SECTOR;
            bytes[VHD_TYPE] = 4;
            bytes[footer + VHD_TYPE] = 4;
            bytes[VHD_LOCATOR..VHD_LOCATOR + 4].copy_from_slice(b"W2ru");
            bytes[VHD_LOCATOR + 11] = 16;
            bytes[VHD_LOCATOR + 22] = 2;
            fs::write(folder.join("differencing"), sparse(&bytes)?)?;
        }
    }
    Ok(())
}

/// The number of sectors, and the first and the last of those that are not zeros with their numbers.
fn sparse(file: &[u8]) -> Result<Vec<u8>> {
    let (sectors, _) = file.as_chunks::<SECTOR>();
    let mut seed = u32::try_from(sectors.len())?.to_le_bytes().to_vec();
    let used: Vec<_> = (0_u32..).zip(sectors).filter(|(_, bytes)| **bytes != [0; SECTOR]).collect();
    let (last, first) = used.split_last().map_or((None, &[][..]), |(last, first)| (Some(last), first));
    for (number, bytes) in first.iter().take(SECTORS_MAX).chain(last) {
        seed.extend(number.to_le_bytes());
        seed.extend(*bytes);
    }
    Ok(seed)
}
