//! monolithicSparse: header, descriptor, two copies of directory and tables, the grains that are stored.

use std::sync::Arc;

use super::{DESCRIPTOR_AT, DESCRIPTOR_SECTORS, GRAIN, GRAIN_SECTORS, Header, SECTOR, TABLE_GRAINS, TABLE_SECTORS};
use crate::{
    BlockDevice, ReadAt, Result,
    containers::{
        allocation::Allocation,
        identity::Identity,
        sections::Sections,
        tables::{Numbered, Table, UnitEntries, fits_u32},
        units::{Source, Units},
    },
};

/// `disk` as a sparse VMDK file called `name`.
///
/// # Errors
///
/// When the disk cannot tell its extents, or stores more than 2 TiB: places are 32 bits of sectors.
pub fn open(name: &str, disk: &Arc<dyn BlockDevice>, identity: &Identity) -> Result<Sections> {
    let size = super::size_of_disk(disk)?;
    let tables = size.div_ceil(GRAIN * TABLE_GRAINS);
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    let set = directory_sectors + tables * TABLE_SECTORS;
    let redundant_at = DESCRIPTOR_AT + DESCRIPTOR_SECTORS;
    let directory_at = redundant_at + set;
    let data_at = (directory_at + set).next_multiple_of(GRAIN_SECTORS);
    let allocation = Arc::new(Allocation::of(disk.as_ref(), GRAIN)?);
    fits_u32(data_at + allocation.total().saturating_mul(GRAIN_SECTORS), "a sparse VMDK file (2 TiB)")?;

    let header = Header {
        version: 1,
        // The newline test is valid; there are redundant tables.
        flags: 1 | 2,
        capacity: size / SECTOR,
        redundant_directory_at: redundant_at,
        directory_at,
        overhead: data_at,
        compression: 0,
    };
    let mut file = Sections::new();
    file.put(0, header.bytes())?;
    file.put(DESCRIPTOR_AT * SECTOR, super::descriptor("monolithicSparse", "SPARSE", name, None, size, identity)?)?;
    for at in [redundant_at, directory_at] {
        let tables_at = at + directory_sectors;
        let entry = move |number: u64| ((tables_at + number * TABLE_SECTORS) as u32).to_le_bytes();
        file.put(at * SECTOR, Table::<4, _>(Numbered { count: tables, entry }))?;
        let stored = move |rank: u64| ((data_at + rank * GRAIN_SECTORS) as u32).to_le_bytes();
        let count = tables * TABLE_GRAINS;
        let grains = UnitEntries { allocation: Arc::clone(&allocation), count, absent: [0; 4], stored };
        file.put(tables_at * SECTOR, Table(grains))?;
    }
    let grains = Units::new(Source::new(Arc::clone(disk)), allocation, GRAIN, Vec::new());
    debug_assert!(file.size() <= data_at * SECTOR);
    file.put(data_at * SECTOR, grains)?;
    Ok(file.ending_at(data_at * SECTOR))
}
