//! A disk as a VHD file (Microsoft, "Virtual Hard Disk Image Format Specification" 1.0), fixed and dynamic.
//!
//! The creator is that of Windows: for it, every reader takes the size from its field. For Virtual PC, and for names
//! they do not know, some take it from the geometry, which cannot say most sizes.

use std::sync::Arc;

use super::{
    allocation::Allocation,
    identity::Identity,
    put,
    sections::Sections,
    tables::{Table, UnitEntries},
    units::{Source, Units},
};
use crate::{BlockDevice, Result, images::vhd::footer::checksum};

const SECTOR: u64 = 512;
/// What Hyper-V and QEMU open.
const SIZE_MAX: u64 = 2040 << 30;
const FOOTER_LEN: usize = 512;
const HEADER_LEN: usize = 1024;
/// Where the allocation table of a dynamic image is: behind the copy of the footer and the header.
const TABLE_AT: u64 = (FOOTER_LEN + HEADER_LEN) as u64;
const BLOCK: u64 = 2 << 20;
/// A block is its bitmap, which is a bit for each of its sectors, and its data.
const BITMAP_LEN: usize = (BLOCK / SECTOR / 8) as usize;
/// What lies before the data of a block: room, so that the data is aligned to 4096 as Hyper-V wants it, and the bitmap.
const BEFORE_DATA: usize = 4096;
/// Allocation table entry of a block that is not stored.
const UNUSED: [u8; 4] = [0xff; 4];

const DYNAMIC: u32 = 3;
const FIXED: u32 = 2;

/// `disk` as a fixed VHD file: the disk and behind it the footer.
///
/// # Errors
///
/// When the disk is larger than 2040 GiB.
pub fn open_fixed(disk: &Arc<dyn BlockDevice>, identity: &Identity) -> Result<Sections> {
    let size = size_of_disk(disk)?;
    let mut file = super::padded(disk, size)?;
    file.put(size, footer(size, FIXED, u64::MAX, identity))?;
    Ok(file)
}

/// `disk` as a dynamic VHD file.
///
/// # Errors
///
/// When the disk cannot tell its extents or is larger than 2040 GiB.
pub fn open_dynamic(disk: &Arc<dyn BlockDevice>, identity: &Identity) -> Result<Sections> {
    let size = size_of_disk(disk)?;
    let footer = footer(size, DYNAMIC, FOOTER_LEN as u64, identity);
    let blocks = size.div_ceil(BLOCK);
    let allocation = Arc::new(Allocation::of(disk.as_ref(), BLOCK)?);
    // The table is padded to sectors, with unused entries.
    let entries = blocks.next_multiple_of(SECTOR / 4);
    let data_at = (TABLE_AT + entries * 4).next_multiple_of(BEFORE_DATA as u64);

    let mut header = vec![0; HEADER_LEN];
    put(&mut header, 0, b"cxsparse");
    put(&mut header, 8, &u64::MAX.to_be_bytes());
    put(&mut header, 16, &TABLE_AT.to_be_bytes());
    put(&mut header, 24, &0x0001_0000_u32.to_be_bytes());
    put(&mut header, 28, &(blocks as u32).to_be_bytes());
    put(&mut header, 32, &(BLOCK as u32).to_be_bytes());
    seal(&mut header, 36);

    let mut before = vec![0; BEFORE_DATA - BITMAP_LEN];
    // An entry names the sector of the bitmap. Below 2040 GiB and their bitmaps, 32 bits are enough.
    let bitmap_at = data_at + before.len() as u64;
    before.extend([0xff; BITMAP_LEN]);
    let stored = move |rank| (((bitmap_at + rank * (BLOCK + BEFORE_DATA as u64)) / SECTOR) as u32).to_be_bytes();
    let table = UnitEntries { allocation: Arc::clone(&allocation), count: entries, absent: UNUSED, stored };

    let mut file = Sections::new();
    file.put(0, footer.clone())?;
    file.put(FOOTER_LEN as u64, header)?;
    file.put(TABLE_AT, Table(table))?;
    let blocks = Units::new(Source::new(Arc::clone(disk)), allocation, BLOCK, before);
    file.put(data_at, blocks)?;
    let end = crate::ReadAt::size(&file);
    file.put(end, footer)?;
    Ok(file)
}

fn size_of_disk(disk: &Arc<dyn BlockDevice>) -> Result<u64> {
    super::size_within(disk, SIZE_MAX, "a VHD file has at most 2040 GiB", "VHDX or qcow2")
}

/// The footer of a disk of `size` bytes.
fn footer(size: u64, kind: u32, header_at: u64, identity: &Identity) -> Vec<u8> {
    let mut footer = vec![0; FOOTER_LEN];
    put(&mut footer, 0, b"conectix");
    // A bit that is always set.
    put(&mut footer, 8, &2_u32.to_be_bytes());
    put(&mut footer, 12, &0x0001_0000_u32.to_be_bytes());
    put(&mut footer, 16, &header_at.to_be_bytes());
    put(&mut footer, 28, b"win ");
    put(&mut footer, 32, &0x000a_0000_u32.to_be_bytes());
    put(&mut footer, 36, b"Wi2k");
    put(&mut footer, 40, &size.to_be_bytes());
    put(&mut footer, 48, &size.to_be_bytes());
    put(&mut footer, 56, &geometry(size / SECTOR));
    put(&mut footer, 60, &kind.to_be_bytes());
    put(&mut footer, 68, &identity.uuid("VHD"));
    seal(&mut footer, 64);
    footer
}

/// Cylinders (16 bits), heads and sectors per track of a disk (specification, appendix "CHS Calculation").
fn geometry(sectors: u64) -> [u8; 4] {
    let sectors = sectors.min(65535 * 16 * 255);
    let (heads, per_track) = if sectors >= 65535 * 16 * 63 {
        (16, 255)
    } else {
        let small = (sectors / 17).div_ceil(1024).max(4);
        if small <= 16 && sectors / 17 < small * 1024 {
            (small, 17)
        } else if sectors / 31 < 16 * 1024 {
            (16, 31)
        } else {
            (16, 63)
        }
    };
    let [high, low] = ((sectors / per_track / heads) as u16).to_be_bytes();
    [high, low, heads as u8, per_track as u8]
}

/// Put the checksum, the complement of the sum of all other bytes, at `at`.
fn seal(bytes: &mut [u8], at: usize) {
    let sum = checksum(bytes, at);
    put(bytes, at, &sum.to_be_bytes());
}
