//! Images in memory that are changed and then given their right checksums again.

use std::{path::Path, sync::Arc};

use blockdev::{
    BlockDevice, ErrorKind, Result,
    images::{self, Image},
};

use crate::common::{Folder, Random, run, write_sparse};

/// An image made by `qemu-img convert` with `options` from a disk of `size` bytes, and that disk.
pub fn made(format: &str, options: &str, size: u64, random: &mut Random, folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let (raw, image) = (folder.join("made.raw"), folder.join("made.image"));
    write_sparse(&raw, size, random);
    let arguments = ["convert", "-f", "raw", "-O", format, "-o", options];
    run("qemu-img", arguments.into_iter().map(AsRef::as_ref).chain([raw.as_os_str(), image.as_os_str()]));
    (std::fs::read(image).unwrap(), std::fs::read(raw).unwrap())
}

/// Open `bytes` as an image named `name`, with files beside it.
pub fn open_among(name: &str, bytes: Vec<u8>, beside: &Folder) -> Result<Image> {
    images::open(name, Arc::new(bytes), None, beside)
}

/// Open `bytes` alone.
pub fn open(bytes: Vec<u8>) -> Result<Image> {
    open_among("image", bytes, &Folder::default())
}

/// What opening `bytes` fails with.
pub fn refused(bytes: Vec<u8>) -> (ErrorKind, String) {
    let error = open(bytes).err().expect("the image should have been refused");
    (error.kind(), error.to_string())
}

/// All bytes of a disk.
pub fn content(disk: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0xff; disk.size() as usize];
    assert_eq!(disk.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// Put `bytes` at `at`.
pub fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

pub fn le32(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(image[at..at + 4].try_into().unwrap())
}

pub fn le64(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

pub fn be32(image: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(image[at..at + 4].try_into().unwrap())
}

/// UTF-16 as VHDX and the locators of VHD have it.
pub fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The checksum of a VHD's structure: the complement of the sum of the other bytes.
pub fn sum(structure: &mut [u8], at: usize) {
    structure[at..at + 4].fill(0);
    let sum: u32 = structure.iter().map(|b| u32::from(*b)).sum();
    put(structure, at, &(!sum).to_be_bytes());
}

/// The CRC-32C of a VHDX's structure, at byte 4 of it.
pub fn crc(structure: &mut [u8]) {
    structure[4..8].fill(0);
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    crc.update(structure);
    let crc = crc.finalize() as u32;
    put(structure, 4, &crc.to_le_bytes());
}

/// Give the parts of a VHD their checksums: the footer at the end, and its copy and the header if they are there.
pub fn seal_vhd(image: &mut [u8]) {
    let end = image.len() - 512;
    sum(&mut image[end..], 64);
    if image.starts_with(b"conectix") {
        sum(&mut image[..512], 64);
        sum(&mut image[512..1536], 36);
    }
}

/// Give the headers and region tables of a VHDX their checksums.
pub fn seal_vhdx(image: &mut [u8]) {
    for (at, len) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 64 << 10), (256 << 10, 64 << 10)] {
        crc(&mut image[at..at + len]);
    }
}
