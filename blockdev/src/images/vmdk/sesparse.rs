//! SESparse extents, the snapshots of VMFS 6 ("space-efficient sparse").
//!
//! Two headers of a sector each (the constant one at 0 names the place of the volatile one), the grain directory, the
//! room of all grain tables, and the grains. Entries have 64 bits: the type in the top four bits, then the number of a
//! table or of a grain. VMware never documented it; that what is not known must be zero, and that a type 1 ("unmapped")
//! reads as zeros and not as the parent, is how QEMU reads it, which has seen the images of ESXi 6.5 to 7.

use super::grains::{Grain, Grains, SECTOR, SECTORS_MAX, Table, le64, sectors};
use crate::{Error, ReadAt, Result, images::tables::Tables};

/// The first bytes.
pub(super) const MAGIC: [u8; 8] = 0xcafe_babe_u64.to_le_bytes();

/// The first bytes of the volatile header.
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;

const VERSION: u64 = 0x2_0000_0001;

/// Sectors of a grain.
const GRAIN: u64 = 8;
/// Sectors of a grain table.
const TABLE: u64 = 64;
/// Entries of a grain table.
const PER_TABLE: u64 = TABLE * SECTOR / ENTRY;
/// Bytes of an entry.
const ENTRY: u64 = 8;

/// The type of an entry of a table or directory.
const TYPE: u64 = 0xf << 60;
const UNMAPPED: u64 = 1 << 60;
const ZERO: u64 = 2 << 60;
const ALLOCATED: u64 = 3 << 60;
/// The type of a grain table that is there; the lower half of the entry is its number.
const TABLE_THERE: u64 = 0x1000_0000;

/// What the headers say.
pub(super) struct Header {
    /// Sectors of the disk.
    pub(super) capacity: u64,
    directory: u64,
    tables: u64,
    table_count: u64,
    grains: u64,
}

impl Header {
    /// The headers of `file`.
    pub(super) fn read(file: &dyn ReadAt) -> Result<Self> {
        let head = read_sector(file, 0)?;
        let unknown = |what: &str, value: u64| {
            Error::unsupported(format!(
                "an SESparse extent with {what} {value:#x}: QEMU and this program know none such"
            ))
        };
        for (at, known, what) in [
            (8, VERSION, "the version"),
            (24, GRAIN, "a grain size of"),
            (32, TABLE, "a table size of"),
            (40, 0, "flags"),
        ] {
            let value = le64(&head, at);
            if value != known {
                return Err(unknown(what, value));
            }
        }
        // Reserved fields, and what is behind the known ones.
        for at in (48..80).chain(208..SECTOR as usize).step_by(8) {
            let value = le64(&head, at);
            if value != 0 {
                return Err(unknown(&format!("in byte {at} of its header"), value));
            }
        }
        let volatile = read_sector(file, sectors(le64(&head, 80))?)?;
        if le64(&volatile, 0) != VOLATILE_MAGIC {
            return Err(Error::damaged("the volatile header of the SESparse extent is damaged"));
        }
        if le64(&volatile, 24) != 0 {
            return Err(Error::unsupported(
                "the SESparse extent was not closed properly and its journal has to be replayed: power the virtual \
                 machine on and off on its host, or take the snapshot again",
            ));
        }
        let header = Self {
            capacity: le64(&head, 16),
            directory: sectors(le64(&head, 128))?,
            tables: sectors(le64(&head, 144))?,
            table_count: le64(&head, 152) / TABLE,
            grains: sectors(le64(&head, 192))?,
        };
        header.check(sectors(le64(&head, 136))?, file.size())?;
        Ok(header)
    }

    fn check(&self, directory_size: u64, file_size: u64) -> Result<()> {
        let damaged =
            |what: String| Err(Error::damaged(format!("the header of the SESparse extent is damaged: {what}")));
        if self.capacity > SECTORS_MAX {
            return damaged(format!("a disk of {} sectors", self.capacity));
        }
        let needed = self.capacity.div_ceil(PER_TABLE * GRAIN) * ENTRY;
        if directory_size < needed {
            return damaged(format!("a grain directory of {directory_size} bytes, where {needed} are needed"));
        }
        if self.directory.saturating_add(needed) > file_size {
            return Err(Error::damaged(format!(
                "the SESparse extent ends at byte {file_size}, within its grain directory: it was cut off"
            )));
        }
        Ok(())
    }

    /// The map of an extent with these headers, in file number `file`.
    pub(super) fn map(&self, file: u32) -> SeSparse {
        SeSparse {
            file,
            directory: self.directory,
            tables: self.tables,
            table_count: self.table_count,
            grains: self.grains,
        }
    }
}

fn read_sector(file: &dyn ReadAt, at: u64) -> Result<[u8; SECTOR as usize]> {
    let mut sector = [0; SECTOR as usize];
    if file.read_at(&mut sector, at)? < sector.len() {
        return Err(Error::damaged(format!(
            "the SESparse extent ends at byte {}, before a header at byte {at}: it was cut off",
            file.size()
        )));
    }
    Ok(sector)
}

/// The map of an SESparse extent.
pub(super) struct SeSparse {
    file: u32,
    directory: u64,
    tables: u64,
    table_count: u64,
    grains: u64,
}

impl Grains for SeSparse {
    const ENTRY: usize = ENTRY as usize;

    fn file(&self) -> u32 {
        self.file
    }

    fn grain_size(&self) -> u64 {
        GRAIN * SECTOR
    }

    fn per_table(&self) -> u64 {
        PER_TABLE
    }

    fn table(&self, tables: &Tables, number: u64) -> Result<Table<'_>> {
        let at = self.directory.saturating_add(number.saturating_mul(ENTRY));
        let entry = tables.bytes_of(self.file, at).map(u64::from_le_bytes)?;
        if entry == 0 {
            return Ok(Table::All(Grain::Absent));
        }
        let table = entry & u64::from(u32::MAX);
        if entry >> 32 != TABLE_THERE || table >= self.table_count {
            return Err(Error::damaged(format!(
                "entry {number} of the grain directory of the SESparse extent is {entry:#x}: it is damaged"
            )));
        }
        let at = (table * TABLE * SECTOR).checked_add(self.tables);
        at.map(Table::At).ok_or_else(|| damaged_entry(entry))
    }

    fn grain(&self, entry: &[u8]) -> Result<Grain> {
        let entry = le64(entry, 0);
        match entry & TYPE {
            0 if entry == 0 => Ok(Grain::Absent),
            UNMAPPED | ZERO => Ok(Grain::Zero),
            ALLOCATED => {
                // The twelve low bits of the number are above its high ones.
                let number = (entry >> 48 & 0xfff) | (entry & 0xffff_ffff_ffff) << 12;
                let at = number.checked_mul(GRAIN * SECTOR).and_then(|at| at.checked_add(self.grains));
                at.map(Grain::Stored).ok_or_else(|| damaged_entry(entry))
            }
            _ => Err(damaged_entry(entry)),
        }
    }
}

fn damaged_entry(entry: u64) -> Error {
    Error::damaged(format!("a table of the SESparse extent has an entry {entry:#x}: it is damaged"))
}
