//! Which format a file has, told by its own bytes, never by its name.
//!
//! Bytes at the head of a *raw* disk belong to its guest, which may write there whatever it likes. So a disk that is
//! inside an image is never asked again; a head that has a partition table as well is that of a raw disk; and what a
//! guest cannot reach is asked first: the footer of a fixed VHD, which has to fit in every respect, and against which a
//! GPT that ends behind it speaks. A guest that gives up its partition table can still make its raw disk look like an
//! image: then it is refused or shows the guest its own bytes, since an image gets no other files than those beside it.

use std::fmt;

use crate::{Error, ReadAt, Result, partitions::is_mbr};

/// A format of disk images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// The disk itself.
    Raw,
    /// QEMU's qcow2, versions 2 and 3.
    Qcow2,
    /// VMware's VMDK, all kinds.
    Vmdk,
    /// Microsoft's VHD.
    Vhd,
    /// Microsoft's VHDX.
    Vhdx,
    /// VirtualBox's VDI.
    Vdi,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vhd, Self::Vhdx, Self::Vdi];

    /// Its name, which is its usual file name extension too.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let format = Self::ALL.into_iter().find(|f| f.name() == name).or(match name {
            "vpc" => Some(Self::Vhd),
            "img" | "flat" => Some(Self::Raw),
            _ => None,
        });
        format.ok_or_else(|| Error::invalid(format!("{name:?} is no image format: raw, qcow2, vmdk, vhd, vhdx, vdi")))
    }
}

/// Bytes at the head of a file that are looked at.
const HEAD: usize = 1024;

/// The format of `file`. What has no magic is raw.
///
/// # Errors
///
/// When the file cannot be read.
pub fn detect(file: &dyn ReadAt) -> Result<Format> {
    let mut head = [0; HEAD];
    let n = file.read_at(&mut head, 0)?;
    let head = head.get(..n).unwrap_or_default();
    // The footer is behind the last byte that a guest can write; the head of a fixed VHD is the guest's.
    if super::vhd::is_fixed(file)? {
        return Ok(Format::Vhd);
    }
    // No image format leaves room for a partition table where disks have theirs.
    let is_partitioned = head.get(512..).is_some_and(|h| h.starts_with(b"EFI PART")) || is_mbr(head, file.size());
    Ok(by_head(head, file.size()).filter(|_| !is_partitioned).unwrap_or(Format::Raw))
}

fn by_head(head: &[u8], size: u64) -> Option<Format> {
    const SESPARSE: [u8; 8] = 0xcafe_babe_u64.to_le_bytes();
    const VDI: [u8; 4] = 0xbeda_107f_u32.to_le_bytes();
    if head.starts_with(b"QFI\xfb") {
        Some(Format::Qcow2)
    } else if [&b"KDMV"[..], b"COWD", &SESPARSE].iter().any(|magic| head.starts_with(magic))
        || super::vmdk::is_descriptor(head, size)
    {
        Some(Format::Vmdk)
    } else if head.starts_with(b"vhdxfile") {
        Some(Format::Vhdx)
    } else if head.starts_with(b"conectix") {
        Some(Format::Vhd)
    } else if head.get(64..68) == Some(&VDI) {
        Some(Format::Vdi)
    } else {
        None
    }
}

/// Whether raw bytes are a disk: they begin with a partition table, a volume group or a filesystem.
///
/// # Errors
///
/// When the file cannot be read.
pub fn is_disk(file: &dyn ReadAt) -> Result<bool> {
    let mut head = [0; 4096];
    let n = file.read_at(&mut head, 0)?;
    let head = head.get(..n).unwrap_or_default();
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let known = at(512, b"EFI PART")
        || is_mbr(head, file.size())
        || at(3, b"NTFS    ")
        || at(3, b"EXFAT   ")
        || at(3, b"ReFS\0")
        || at(54, b"FAT1")
        || at(82, b"FAT32   ")
        || at(0, b"XFSB")
        || at(0, b"LUKS\xba\xbe")
        || at(1080, &0xef53_u16.to_le_bytes())
        || (0..4).any(|sector| at(sector * 512, b"LABELONE"));
    if known {
        return Ok(true);
    }
    // btrfs keeps the first 64 KiB free. The label of a device of ZFS has a list of names and values after 16 KiB, in XDR
    // (byte 0), of which "version" is the first.
    let mut magic = [0; 8];
    let mut list = [0; 32];
    let n = file.read_at(&mut magic, 0x1_0040)?;
    let m = file.read_at(&mut list, 0x4000)?;
    Ok(magic.get(..n) == Some(b"_BHRfS_M") || (m == list.len() && list[0] == 1 && &list[24..] == b"version\0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Vec<u8> {
        let mut disk = vec![0; 1 << 20];
        disk[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 255, 7, 0, 0]);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    #[test]
    fn a_partitioned_disk_is_raw_whatever_its_guest_writes() {
        for magic in [&b"QFI\xfb\0\0\0\x03"[..], b"KDMV", b"# Disk DescriptorFile\n", b"vhdxfile", b"conectix"] {
            let mut disk = disk();
            disk[..magic.len()].copy_from_slice(magic);
            assert_eq!(detect(&disk).expect("readable"), Format::Raw);
            assert!(is_disk(&disk).expect("readable"));
            disk[510] = 0;
            assert_ne!(detect(&disk).expect("readable"), Format::Raw, "a real head");
        }
    }

    #[test]
    fn a_device_of_zfs_is_a_disk() {
        let mut disk = vec![0; 1 << 20];
        disk[0x4000..0x4002].copy_from_slice(&[1, 1]);
        disk[0x4018..0x4020].copy_from_slice(b"version\0");
        assert!(is_disk(&disk).expect("readable"));
        disk[0x4018] = b'V';
        assert!(!is_disk(&disk).expect("readable"));
    }

    #[test]
    fn kernels_and_boot_sectors_are_no_disks() {
        let mut kernel = vec![0x90; 1 << 20];
        kernel[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert!(!is_disk(&kernel).expect("readable"));
        assert!(!is_disk(&vec![0; 1 << 20]).expect("readable"));
        assert!(!is_disk(&vec![0x55, 0xaa]).expect("readable"));
    }
}
