//! A disk as a VDI file (VirtualBox, `VDICore.h`): header, block map, the blocks of 1 MiB that are stored.

use std::sync::Arc;

use super::{
    allocation::Allocation,
    identity::Identity,
    put,
    sections::Sections,
    tables::{Table, UnitEntries},
    units::{Source, Units},
};
use crate::{BlockDevice, Result};

const BLOCK: u64 = 1 << 20;
/// What QEMU opens: a map below 2 GiB, with an entry of 4 bytes for each block. VirtualBox takes more.
const SIZE_MAX: u64 = ((1 << 31) - 512) / 4 * BLOCK;
const HEADER_LEN: usize = 512;
/// Map entry of a block that is not stored.
const FREE: u32 = u32::MAX;

/// `disk` as a dynamic VDI file.
///
/// # Errors
///
/// When the disk cannot tell its extents or is larger than 512 TiB.
pub fn open(disk: &Arc<dyn BlockDevice>, identity: &Identity) -> Result<Sections> {
    let size = super::size_within(disk, SIZE_MAX, "a VDI file has nearly 512 TiB at most", "qcow2")?;
    let blocks = size.div_ceil(BLOCK);
    let allocation = Arc::new(Allocation::of(disk.as_ref(), BLOCK)?);
    let map_at = HEADER_LEN as u64;
    let data_at = (map_at + 4 * blocks).next_multiple_of(BLOCK);

    let mut header = vec![0; HEADER_LEN];
    put(&mut header, 0, b"<<< Oracle VM VirtualBox Disk Image >>>\n");
    put(&mut header, 64, &0xbeda_107f_u32.to_le_bytes());
    put(&mut header, 68, &0x0001_0001_u32.to_le_bytes());
    put(&mut header, 72, &400_u32.to_le_bytes());
    // Type: dynamic.
    put(&mut header, 76, &1_u32.to_le_bytes());
    put(&mut header, 340, &(map_at as u32).to_le_bytes());
    put(&mut header, 344, &(data_at as u32).to_le_bytes());
    put(&mut header, 360, &512_u32.to_le_bytes());
    put(&mut header, 368, &size.to_le_bytes());
    put(&mut header, 376, &(BLOCK as u32).to_le_bytes());
    put(&mut header, 384, &(blocks as u32).to_le_bytes());
    put(&mut header, 388, &(allocation.total() as u32).to_le_bytes());
    put(&mut header, 392, &identity.guid("VDI image"));
    put(&mut header, 408, &identity.guid("VDI modification"));

    let mut file = Sections::new();
    file.put(0, header)?;
    let map = UnitEntries {
        allocation: Arc::clone(&allocation),
        count: blocks,
        absent: FREE.to_le_bytes(),
        stored: |rank| (rank as u32).to_le_bytes(),
    };
    file.put(map_at, Table(map))?;
    file.put(data_at, Units::new(Source::new(Arc::clone(disk)), allocation, BLOCK, Vec::new()))?;
    Ok(file.ending_at(data_at))
}
