//! A disk as a VHDX file (MS-VHDX), fixed and dynamic: the only container that carries the size of its sectors.
//!
//! In units of 1 MiB: headers and region tables, a log that was never used, metadata, the block allocation table, the
//! blocks. The file is a multiple of 1 MiB long, as Hyper-V wants it.

use std::sync::Arc;

use super::{
    allocation::Allocation,
    identity::Identity,
    put,
    sections::Sections,
    tables::{Entries, Table, UnitEntries},
    units::{Source, Units},
};
use crate::{
    BlockDevice, Result,
    images::vhdx::guid::Guid,
    images::vhdx::ids::{
        BAT, FILE_PARAMETERS, HEADER_LEN, HEADERS, LOGICAL_SECTOR_SIZE, METADATA, METADATA_TABLE_LEN, MIB,
        PHYSICAL_SECTOR_SIZE, REGION_TABLE_LEN, REGION_TABLES, REQUIRED, SIZE_MAX, VIRTUAL_DISK_ID, VIRTUAL_DISK_SIZE,
        crc32c,
    },
};

const LOG_AT: u64 = MIB;
const METADATA_AT: u64 = 2 * MIB;
const TABLE_AT: u64 = 3 * MIB;

const OF_THE_DISK: u32 = 2 | REQUIRED;

/// File parameter: all blocks stay allocated.
const FIXED: u32 = 1;
/// Allocation table entry: the block is there.
const FULLY_PRESENT: u64 = 6;

/// `disk` as a dynamic VHDX file.
///
/// # Errors
///
/// When the disk cannot tell its extents or is larger than 64 TiB.
pub fn open_dynamic(disk: &Arc<dyn BlockDevice>, identity: &Identity) -> Result<Sections> {
    let size = size_of_disk(disk)?;
    let block = block_size(size);
    layout(disk, identity, size, 0, Arc::new(Allocation::of(disk.as_ref(), block)?))
}

/// `disk` as a fixed VHDX file, in which all blocks have their place, in order.
///
/// # Errors
///
/// When the disk is larger than 64 TiB.
pub fn open_fixed(disk: &Arc<dyn BlockDevice>, identity: &Identity) -> Result<Sections> {
    let size = size_of_disk(disk)?;
    let block = block_size(size);
    layout(disk, identity, size, FIXED, Arc::new(Allocation::full(size.div_ceil(block))))
}

/// Where the disk's bytes begin in a fixed VHDX file of it.
///
/// # Errors
///
/// As [`open_fixed`].
pub fn data_at(disk: &Arc<dyn BlockDevice>) -> Result<u64> {
    Ok(Shape::of(size_of_disk(disk)?, super::sector(disk.as_ref())).data_at())
}

fn size_of_disk(disk: &Arc<dyn BlockDevice>) -> Result<u64> {
    super::size_within(disk, SIZE_MAX, "a VHDX file has at most 64 TiB", "qcow2")
}

/// As small as the format allows, so that little is stored beside the data, but at most 2 Mi blocks, so that the
/// table stays below what other programs read whole: 1 MiB up to 2 TiB, 32 MiB at 64 TiB.
fn block_size(size: u64) -> u64 {
    (size >> 21).next_power_of_two().max(MIB)
}

/// Sizes that follow from that of the disk.
struct Shape {
    /// Bytes of a block.
    block: u64,
    /// Blocks in a chunk.
    chunk: u64,
    blocks: u64,
    /// Entries of the allocation table.
    count: u64,
    /// Bytes of the table.
    table_len: u64,
}

impl Shape {
    /// Section 2.5.1: after the entries of each chunk of blocks one for a bitmap of sectors, which only a differencing
    /// image has; a trailing one is left out.
    fn of(size: u64, sector: u32) -> Self {
        let block = block_size(size);
        let chunk = (u64::from(sector) << 23) / block;
        let blocks = size.div_ceil(block);
        let count = blocks + blocks.saturating_sub(1) / chunk;
        Self { block, chunk, blocks, count, table_len: (count * 8).next_multiple_of(MIB) }
    }

    /// Where the blocks begin.
    const fn data_at(&self) -> u64 {
        TABLE_AT + self.table_len
    }
}

fn layout(
    disk: &Arc<dyn BlockDevice>,
    identity: &Identity,
    size: u64,
    flags: u32,
    allocation: Arc<Allocation>,
) -> Result<Sections> {
    let sizes = disk.block_sizes();
    let shape = Shape::of(size, super::sector(disk.as_ref()));
    let data_at = shape.data_at();
    let Shape { block, chunk, blocks, count, table_len } = shape;

    let mut file = Sections::new();
    let mut identifier = b"vhdxfile".to_vec();
    identifier.extend("Revenant".encode_utf16().flat_map(u16::to_le_bytes));
    file.put(0, identifier)?;
    for (sequence, at) in (1..).zip(HEADERS) {
        file.put(at, header(sequence, identity))?;
    }
    let regions = regions(table_len);
    for at in REGION_TABLES {
        file.put(at, regions.clone())?;
    }
    let items: [(Guid, u32, &[u8]); 5] = [
        (FILE_PARAMETERS, REQUIRED, &(u64::from(flags) << 32 | block).to_le_bytes()),
        (VIRTUAL_DISK_SIZE, OF_THE_DISK, &size.to_le_bytes()),
        (VIRTUAL_DISK_ID, OF_THE_DISK, &identity.guid("VHDX disk")),
        (LOGICAL_SECTOR_SIZE, OF_THE_DISK, &super::sector(disk.as_ref()).to_le_bytes()),
        (PHYSICAL_SECTOR_SIZE, OF_THE_DISK, &if sizes.physical > 512 { 4096_u32 } else { 512 }.to_le_bytes()),
    ];
    file.put(METADATA_AT, metadata(&items))?;
    let stored = move |rank: u64| ((data_at + rank * block) | FULLY_PRESENT).to_le_bytes();
    let entries = UnitEntries { allocation: Arc::clone(&allocation), count: blocks, absent: [0; 8], stored };
    file.put(TABLE_AT, Table(WithBitmaps { blocks: entries, chunk, count }))?;
    file.put(data_at, Units::new(Source::new(Arc::clone(disk)), allocation, block, Vec::new()))?;
    Ok(file.ending_at(data_at))
}

/// Section 2.2.2.
fn header(sequence: u64, identity: &Identity) -> Vec<u8> {
    let mut header = vec![0; HEADER_LEN];
    put(&mut header, 0, b"head");
    put(&mut header, 8, &sequence.to_le_bytes());
    put(&mut header, 16, &identity.guid("VHDX file write"));
    put(&mut header, 32, &identity.guid("VHDX data write"));
    // No log GUID: the log is empty. Log version 0, version 1.
    put(&mut header, 66, &1_u16.to_le_bytes());
    put(&mut header, 68, &(MIB as u32).to_le_bytes());
    put(&mut header, 72, &LOG_AT.to_le_bytes());
    seal(&mut header);
    header
}

/// Section 2.2.3: where the table and the metadata are.
fn regions(table_len: u64) -> Vec<u8> {
    let mut regions = vec![0; REGION_TABLE_LEN];
    put(&mut regions, 0, b"regi");
    put(&mut regions, 8, &2_u32.to_le_bytes());
    let entries = [(BAT, TABLE_AT, table_len), (METADATA, METADATA_AT, MIB)];
    for (at, (guid, offset, len)) in (16..).step_by(32).zip(entries) {
        put(&mut regions, at, &guid.0);
        put(&mut regions, at + 16, &offset.to_le_bytes());
        put(&mut regions, at + 24, &(len as u32).to_le_bytes());
        put(&mut regions, at + 28, &1_u32.to_le_bytes());
    }
    seal(&mut regions);
    regions
}

/// Section 2.6: a table of items, and the items.
fn metadata(items: &[(Guid, u32, &[u8])]) -> Vec<u8> {
    let mut metadata = vec![0; METADATA_TABLE_LEN as usize];
    put(&mut metadata, 0, b"metadata");
    put(&mut metadata, 10, &(items.len() as u16).to_le_bytes());
    for (at, (guid, flags, item)) in (32..).step_by(32).zip(items) {
        let item_at = metadata.len() as u32;
        put(&mut metadata, at, &guid.0);
        put(&mut metadata, at + 16, &item_at.to_le_bytes());
        put(&mut metadata, at + 20, &(item.len() as u32).to_le_bytes());
        put(&mut metadata, at + 24, &flags.to_le_bytes());
        metadata.extend_from_slice(item);
    }
    metadata
}

/// Put the CRC-32C of all, the field itself counted as zeros, in its field.
fn seal(structure: &mut [u8]) {
    let crc = crc32c(&[structure]);
    put(structure, 4, &crc.to_le_bytes());
}

/// The table of the blocks, with an empty entry after those of each chunk.
struct WithBitmaps<F> {
    blocks: UnitEntries<8, F>,
    /// Blocks in a chunk.
    chunk: u64,
    /// Entries with those of the bitmaps.
    count: u64,
}

impl<F: Fn(u64) -> [u8; 8] + Send + Sync> Entries<8> for WithBitmaps<F> {
    fn count(&self) -> u64 {
        self.count
    }

    fn fill(&self, first: u64, out: &mut [u8]) {
        let (mut at, mut rest) = (first, out);
        while !rest.is_empty() {
            let (chunk, within) = (at / (self.chunk + 1), at % (self.chunk + 1));
            let blocks = self.chunk - within;
            let entries = blocks.clamp(1, rest.len() as u64 / 8);
            let (part, tail) = rest.split_at_mut(entries as usize * 8);
            if blocks == 0 {
                part.fill(0);
            } else {
                self.blocks.fill(chunk * self.chunk + within, part);
            }
            at += entries;
            rest = tail;
        }
    }

    fn zeros(&self, first: u64) -> u64 {
        let (chunk, within) = (first / (self.chunk + 1), first % (self.chunk + 1));
        let absent = self.blocks.zeros(chunk * self.chunk + within);
        // The entry of a bitmap counts with the blocks before it.
        if within + absent >= self.chunk { self.chunk + 1 - within } else { absent }
    }
}
