//! COWD extents, `VMFSSPARSE`: the redo logs of ESX, and the sparse disks of VMware's first products.
//!
//! The header has 2048 bytes of which the first 32 tell the layout; all numbers have 32 bits and count sectors.
//! A grain table always has 4096 entries. Grains are as small as one sector. (VMware, *Virtual Disk Format 5.0*, "ESX
//! Server Sparse Extents".)

use super::grains::{Grain, Grains, SECTOR, Table, le32, sectors};
use crate::{Error, ReadAt, Result, images::tables::Tables};

/// The first bytes.
pub(super) const MAGIC: [u8; 4] = *b"COWD";

/// Entries of a grain table.
const PER_TABLE: u64 = 4096;

/// Sectors of the header: no grain and no table lies in them.
const HEADER_SECTORS: u32 = 4;

/// Grains are no larger than this, in sectors: 1 GiB is larger than any that was ever made.
const GRAIN_MAX: u32 = 0x20_0000;

/// Flags: nothing is below this extent.
const FLAG_ROOT: u32 = 1;
/// Flags: it was not closed properly.
const FLAG_INCONSISTENT: u32 = 4;

/// What the header says.
pub(super) struct Header {
    /// Sectors of the disk.
    pub(super) capacity: u64,
    /// What it was made on, where the extent tells it by itself, as those of old products do.
    pub(super) parent: Option<String>,
    /// It was not closed properly.
    pub(super) unclean: bool,
    grain: u32,
    directory: u32,
    directory_entries: u32,
}

impl Header {
    /// The header at the start of `file`.
    pub(super) fn read(file: &dyn ReadAt) -> Result<Self> {
        const PARENT: std::ops::Range<usize> = 32..32 + 1024;
        const UNCLEAN: usize = 1648;
        let mut bytes = [0; (HEADER_SECTORS as u64 * SECTOR) as usize];
        let n = file.read_at(&mut bytes, 0)?;
        if n < bytes.len() {
            return Err(Error::damaged(format!("the COWD extent ends at byte {n}, within its header: it was cut off")));
        }
        let version = le32(&bytes, 4);
        if version != 1 {
            return Err(Error::unsupported(format!("COWD extents of version {version}: only version 1 is known")));
        }
        let flags = le32(&bytes, 8);
        let parent = (flags & FLAG_ROOT == 0)
            .then(|| bytes.get(PARENT).unwrap_or_default().split(|b| *b == 0).next().unwrap_or_default())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .filter(|name| !name.is_empty());
        let header = Self {
            capacity: le32(&bytes, 12).into(),
            parent,
            unclean: flags & FLAG_INCONSISTENT != 0 || le32(&bytes, UNCLEAN) != 0,
            grain: le32(&bytes, 16),
            directory: le32(&bytes, 20),
            directory_entries: le32(&bytes, 24),
        };
        header.check(file.size())?;
        Ok(header)
    }

    fn check(&self, file_size: u64) -> Result<()> {
        let damaged = |what: String| Err(Error::damaged(format!("the header of the COWD extent is damaged: {what}")));
        if self.grain == 0 || self.grain > GRAIN_MAX {
            return damaged(format!("grains of {} sectors", self.grain));
        }
        if self.directory < HEADER_SECTORS {
            return damaged(format!("the grain directory is at sector {}", self.directory));
        }
        let covered = u64::from(self.directory_entries) * PER_TABLE * u64::from(self.grain);
        if covered < self.capacity {
            return damaged(format!("its tables are for {covered} sectors of {}", self.capacity));
        }
        let end = u64::from(self.directory) * SECTOR + u64::from(self.directory_entries) * 4;
        if end > file_size {
            return Err(Error::damaged(format!(
                "the COWD extent ends at byte {file_size}, within its grain directory: it was cut off"
            )));
        }
        Ok(())
    }

    /// The map of an extent with this header, in file number `file`.
    pub(super) fn map(&self, file: u32) -> Cowd {
        Cowd { file, grain: u64::from(self.grain) * SECTOR, directory: u64::from(self.directory) * SECTOR }
    }
}

/// The map of a COWD extent.
pub(super) struct Cowd {
    file: u32,
    grain: u64,
    directory: u64,
}

impl Grains for Cowd {
    const ENTRY: usize = 4;

    fn file(&self) -> u32 {
        self.file
    }

    fn grain_size(&self) -> u64 {
        self.grain
    }

    fn per_table(&self) -> u64 {
        PER_TABLE
    }

    fn table(&self, tables: &Tables, number: u64) -> Result<Table<'_>> {
        let entry = tables.bytes_of(self.file, self.directory.saturating_add(number.saturating_mul(4)))?;
        Ok(match sector(u32::from_le_bytes(entry))? {
            None => Table::All(Grain::Absent),
            Some(at) => Table::At(at),
        })
    }

    fn grain(&self, entry: &[u8]) -> Result<Grain> {
        Ok(sector(le32(entry, 0))?.map_or(Grain::Absent, Grain::Stored))
    }
}

/// The byte that an entry points to.
fn sector(entry: u32) -> Result<Option<u64>> {
    match entry {
        0 => Ok(None),
        1..HEADER_SECTORS => Err(Error::damaged(format!(
            "a table of the COWD extent points to sector {entry}, which is in the header: it is damaged"
        ))),
        _ => sectors(entry.into()).map(Some),
    }
}
