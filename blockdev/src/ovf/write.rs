//! A machine as a package that is laid out and not stored: descriptor and disks, all computed as they are read.

use std::sync::Arc;

use super::{
    descriptor::{self, Hardware},
    tar,
};
use crate::{
    BlockDevice, ReadAt, Result,
    containers::{self, Kind, Sections},
};

/// The files of a package.
pub struct Files {
    /// The descriptor's name and text.
    pub descriptor: (String, Vec<u8>),
    /// The disks as stream-optimized VMDK files, by their names.
    pub disks: Vec<(String, Arc<dyn ReadAt>)>,
}

/// The package `stem` of `hardware` with `disks`, each with a name and what stands for it.
///
/// # Errors
///
/// When a disk cannot tell its extents, or is too large for a VMDK.
pub fn files(stem: &str, hardware: &Hardware, disks: &[(String, Arc<dyn BlockDevice>, Vec<u8>)]) -> Result<Files> {
    let mut entries = Vec::new();
    let mut opened = Vec::new();
    for (name, disk, identity) in disks {
        let file_name = format!("{stem}-{name}.vmdk");
        let file = containers::open(Kind::VmdkStream, &file_name, disk, identity)?;
        entries.push((file_name.clone(), file.size(), disk.size()));
        opened.push((file_name, file));
    }
    let text = descriptor::write(hardware, &entries).into_bytes();
    Ok(Files { descriptor: (format!("{stem}.ovf"), text), disks: opened })
}

/// The same as one archive (OVA).
///
/// # Errors
///
/// When a name is too long for it.
pub fn archive(files: Files) -> Result<Arc<dyn ReadAt>> {
    let mut archive = Sections::new();
    let mut at = 0;
    let (name, text) = files.descriptor;
    let descriptor = (name, Arc::new(text) as Arc<dyn ReadAt>);
    for (name, file) in std::iter::once(descriptor).chain(files.disks) {
        let size = file.size();
        archive.put(at, tar::header(&name, size)?)?;
        archive.put(at + tar::BLOCK, file)?;
        at += tar::BLOCK + size.next_multiple_of(tar::BLOCK);
    }
    // An archive ends with two empty blocks.
    Ok(Arc::new(archive.ending_at(at + 2 * tar::BLOCK)))
}
