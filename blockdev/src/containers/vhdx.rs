//! A disk as a VHDX file (MS-VHDX), fixed and dynamic: the only container that carries the size of its sectors.
//!
//! In units of 1 MiB: headers and region tables, a log that was never used, metadata, the block allocation table, the
//! blocks. The file is a multiple of 1 MiB long, as Hyper-V wants it.

use std::sync::Arc;

use crc_fast::CrcAlgorithm;

use super::{
    allocation::Allocation,
    identity::Identity,
    put,
    sections::Sections,
    tables::{Entries, Table, UnitEntries},
    units::{Source, Units},
};
use crate::{BlockDevice, Result};

const MIB: u64 = 1 << 20;
const SIZE_MAX: u64 = 64 << 40;

// Section 2.2: the places of the parts of the header section.
const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_LEN: usize = 4096;
const REGIONS_AT: [u64; 2] = [192 << 10, 256 << 10];
const REGIONS_LEN: usize = 64 << 10;

const LOG_AT: u64 = MIB;
const METADATA_AT: u64 = 2 * MIB;
const METADATA_TABLE_LEN: usize = 64 << 10;
const TABLE_AT: u64 = 3 * MIB;

// Section 2.2.3.2 and 2.6.2.
const REGION_TABLE: u128 = 0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08;
const REGION_METADATA: u128 = 0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e;
const FILE_PARAMETERS: u128 = 0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b;
const VIRTUAL_DISK_SIZE: u128 = 0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8;
const VIRTUAL_DISK_ID: u128 = 0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746;
const LOGICAL_SECTOR_SIZE: u128 = 0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f;
const PHYSICAL_SECTOR_SIZE: u128 = 0xcda3_48c7_445d_4471_9cc9_e988_5251_c556;

const REQUIRED: u32 = 4;
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

fn size_of_disk(disk: &Arc<dyn BlockDevice>) -> Result<u64> {
    super::size_within(disk, SIZE_MAX, "a VHDX file has at most 64 TiB", "qcow2")
}

/// As small as the format allows, so that little is stored beside the data, but at most 2 Mi blocks, so that the
/// table stays below what other programs read whole: 1 MiB up to 2 TiB, 32 MiB at 64 TiB.
fn block_size(size: u64) -> u64 {
    (size >> 21).next_power_of_two().max(MIB)
}

fn layout(
    disk: &Arc<dyn BlockDevice>,
    identity: &Identity,
    size: u64,
    flags: u32,
    allocation: Arc<Allocation>,
) -> Result<Sections> {
    let block = block_size(size);
    let sizes = disk.block_sizes();
    // Section 2.5.1: after the entries of each chunk of blocks one for a bitmap of sectors, which only a differencing
    // image has; a trailing one is left out.
    let chunk = (u64::from(super::sector(disk.as_ref())) << 23) / block;
    let blocks = size.div_ceil(block);
    let count = blocks + blocks.saturating_sub(1) / chunk;
    let table_len = (count * 8).next_multiple_of(MIB);
    let data_at = TABLE_AT + table_len;

    let mut file = Sections::new();
    let mut identifier = b"vhdxfile".to_vec();
    identifier.extend("Revenant".encode_utf16().flat_map(u16::to_le_bytes));
    file.put(0, identifier)?;
    for (sequence, at) in (1..).zip(HEADERS_AT) {
        file.put(at, header(sequence, identity))?;
    }
    let regions = regions(table_len);
    for at in REGIONS_AT {
        file.put(at, regions.clone())?;
    }
    let items: [(u128, u32, &[u8]); 5] = [
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
    let mut regions = vec![0; REGIONS_LEN];
    put(&mut regions, 0, b"regi");
    put(&mut regions, 8, &2_u32.to_le_bytes());
    let entries = [(REGION_TABLE, TABLE_AT, table_len), (REGION_METADATA, METADATA_AT, MIB)];
    for (at, (guid, offset, len)) in (16..).step_by(32).zip(entries) {
        put(&mut regions, at, &stored(guid));
        put(&mut regions, at + 16, &offset.to_le_bytes());
        put(&mut regions, at + 24, &(len as u32).to_le_bytes());
        put(&mut regions, at + 28, &1_u32.to_le_bytes());
    }
    seal(&mut regions);
    regions
}

/// Section 2.6: a table of items, and the items.
fn metadata(items: &[(u128, u32, &[u8])]) -> Vec<u8> {
    let mut metadata = vec![0; METADATA_TABLE_LEN];
    put(&mut metadata, 0, b"metadata");
    put(&mut metadata, 10, &(items.len() as u16).to_le_bytes());
    for (at, (guid, flags, item)) in (32..).step_by(32).zip(items) {
        let item_at = metadata.len() as u32;
        put(&mut metadata, at, &stored(*guid));
        put(&mut metadata, at + 16, &item_at.to_le_bytes());
        put(&mut metadata, at + 20, &(item.len() as u32).to_le_bytes());
        put(&mut metadata, at + 24, &flags.to_le_bytes());
        metadata.extend_from_slice(item);
    }
    metadata
}

/// Put the CRC-32C of all, the field itself counted as zeros, in its field.
fn seal(structure: &mut [u8]) {
    let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, structure) as u32;
    put(structure, 4, &crc.to_le_bytes());
}

/// A GUID, given by its digits, as it is stored: the first three fields little-endian.
fn stored(guid: u128) -> [u8; 16] {
    super::identity::mixed_endian(guid.to_be_bytes())
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
