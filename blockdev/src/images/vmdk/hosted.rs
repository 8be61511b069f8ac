//! Hosted sparse extents, "KDMV": monolithicSparse, twoGbMaxExtentSparse and streamOptimized.
//!
//! A header of one sector, perhaps a descriptor, one or two sets of grain directory and grain tables, and the grains.
//! Entries have 32 bits and count sectors. Two sets of tables say the same; the second helps where the first is
//! damaged. In a streamOptimized extent every grain is a zlib stream behind a *marker* that repeats where it belongs.
//! (VMware, *Virtual Disk Format 5.0*, "Hosted Sparse Extent" and "Stream-Optimized Compressed Sparse Extents".)

use std::cell::RefCell;

use libdeflater::Decompressor;

use super::{
    grains::{Grain, Grains, SECTOR, SECTORS_MAX, Table, grain_at, le32, le64, sectors},
    stream::{self, Salvaged},
};
use crate::{Error, ReadAt, Result, images::tables::Tables};

/// The first bytes.
pub(super) const MAGIC: [u8; 4] = *b"KDMV";

/// The directory is told by the footer.
const DIRECTORY_AT_END: u64 = u64::MAX;

const FLAG_NEWLINES: u32 = 1;
const FLAG_REDUNDANT: u32 = 2;
const FLAG_ZERO_GRAINS: u32 = 4;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
/// Flags of which all have to be known.
const FLAGS_INCOMPATIBLE: u32 = 0xffff_0000;

/// The only way of compression, "deflate": zlib streams (RFC 1950).
const DEFLATE: u16 = 1;

/// Entries of a grain table, at most; all known writers have as many.
const PER_TABLE_MAX: u32 = 512;

/// Sectors of a grain: 1 GiB is larger than any that was ever made.
const GRAIN_MAX: u64 = 0x20_0000;
/// The same where it has to be unpacked.
const PACKED_GRAIN_MAX: u64 = (2 << 20) / SECTOR;

/// Bytes of a marker that come before a grain's data.
pub(super) const MARKER: u64 = 12;

thread_local! {
    // The decoder's tables are 11 KiB: not worth an allocation a grain.
    static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
}

/// What a header, or the footer, which has the same form, says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// Sectors of the disk.
    pub(super) capacity: u64,
    /// Sectors of a grain.
    pub(super) grain: u64,
    /// Entries of a grain table.
    pub(super) per_table: u32,
    /// Sector and sectors of the descriptor; 0: none.
    pub(super) descriptor: (u64, u64),
    /// Sectors of what is before the grains.
    pub(super) overhead: u64,
    /// The grains are compressed.
    pub(super) compressed: bool,
    /// It was not closed properly.
    pub(super) unclean: bool,
    zero_grains: bool,
    directory: u64,
    redundant: Option<u64>,
}

impl Header {
    /// The header at byte `at` of `file`.
    pub(super) fn read(file: &dyn ReadAt, at: u64) -> Result<Self> {
        let mut bytes = [0; SECTOR as usize];
        if file.read_at(&mut bytes, at)? < bytes.len() || !bytes.starts_with(&MAGIC) {
            return Err(Error::damaged(format!("there is no whole header of a VMDK at byte {at}: it was cut off")));
        }
        let version = le32(&bytes, 4);
        if !(1..=3).contains(&version) {
            return Err(Error::unsupported(format!("a sparse VMDK extent of version {version}: 1 to 3 are known")));
        }
        let flags = le32(&bytes, 8);
        let unknown = flags & FLAGS_INCOMPATIBLE & !(FLAG_COMPRESSED | FLAG_MARKERS);
        if unknown != 0 {
            return Err(Error::unsupported(format!("a sparse VMDK extent with the incompatible flags {unknown:#x}")));
        }
        if flags & FLAG_NEWLINES != 0 && bytes.get(73..77) != Some(b"\n \r\n") {
            return Err(Error::damaged(
                "the line ends in the VMDK's header were changed: it was transferred as text, and is damaged throughout",
            ));
        }
        let algorithm = bytes.get(77..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_le_bytes(*b));
        let header = Self {
            capacity: le64(&bytes, 12),
            grain: le64(&bytes, 20),
            descriptor: (le64(&bytes, 28), le64(&bytes, 36)),
            per_table: le32(&bytes, 44),
            overhead: le64(&bytes, 64),
            compressed: flags & FLAG_COMPRESSED != 0,
            unclean: bytes.get(72) == Some(&1),
            zero_grains: flags & FLAG_ZERO_GRAINS != 0,
            directory: le64(&bytes, 56),
            redundant: Some(le64(&bytes, 48)).filter(|at| flags & FLAG_REDUNDANT != 0 && *at != 0),
        };
        header.check(flags & FLAG_MARKERS != 0, algorithm)?;
        Ok(header)
    }

    fn check(&self, markers: bool, algorithm: u16) -> Result<()> {
        let damaged = |what: String| Err(Error::damaged(format!("the header of the VMDK is damaged: {what}")));
        if self.compressed != markers || self.compressed != (algorithm == DEFLATE) {
            return Err(Error::unsupported(format!(
                "a sparse VMDK extent with compressed grains: {}, markers: {markers}, compression algorithm {algorithm}: \
                 only all of them (deflate) or none are known",
                self.compressed
            )));
        }
        if self.capacity > SECTORS_MAX {
            return damaged(format!("a disk of {} sectors", self.capacity));
        }
        let grain_max = if self.compressed { PACKED_GRAIN_MAX } else { GRAIN_MAX };
        if !self.grain.is_power_of_two() || self.grain > grain_max {
            return damaged(format!("grains of {} sectors", self.grain));
        }
        if !(1..=PER_TABLE_MAX).contains(&self.per_table) {
            return damaged(format!("grain tables of {} entries", self.per_table));
        }
        Ok(())
    }

    /// Sectors that one grain table is for.
    pub(super) fn per_table_sectors(&self) -> u64 {
        self.grain * u64::from(self.per_table)
    }

    /// Bytes of the grain directory.
    fn directory_size(&self) -> u64 {
        self.capacity.div_ceil(self.per_table_sectors()) * 4
    }

    /// Whether there is room for a grain directory at byte `at` of a file of `file_size` bytes.
    pub(super) fn directory_fits(&self, at: u64, file_size: u64) -> bool {
        at > 0 && at.checked_add(self.directory_size()).is_some_and(|end| end <= file_size)
    }

    /// Bytes of a grain table.
    pub(super) fn table_size(&self) -> u64 {
        u64::from(self.per_table) * 4
    }

    /// Where the grain directory is told to be, in bytes; `None` where the footer has to tell.
    pub(super) fn directory(&self) -> Option<u64> {
        (self.directory != DIRECTORY_AT_END).then(|| self.directory.saturating_mul(SECTOR))
    }

    /// The map of an extent with this header, which is file number `number`, and what is to be said about it.
    pub(super) fn map(&self, file: &dyn ReadAt, number: u32, notes: &mut Vec<String>) -> Result<Hosted> {
        let redundant = self.redundant.map(|at| at.saturating_mul(SECTOR));
        let directory = match self.directory() {
            Some(first) => {
                let redundant = redundant.filter(|at| self.directory_fits(*at, file.size()));
                if !self.directory_fits(first, file.size()) {
                    let Some(redundant) = redundant else {
                        return Err(Error::damaged(format!(
                            "the VMDK's grain directory lies at byte {first}, and the file ends at {}: it was cut off",
                            file.size()
                        )));
                    };
                    notes.push(format!("the grain directory at byte {first} is damaged: the other one is used"));
                    Directory::Stored { first: redundant, redundant: None }
                } else {
                    Directory::Stored { first, redundant }
                }
            }
            None => match stream::find_directory(file, self)? {
                stream::Found::Directory(first) => Directory::Stored { first, redundant: None },
                stream::Found::Salvaged(salvaged) => {
                    notes.push(salvaged.note(self.grain));
                    Directory::Salvaged(salvaged)
                }
            },
        };
        Ok(Hosted {
            file: number,
            file_size: file.size(),
            grain: self.grain * SECTOR,
            per_table: self.per_table.into(),
            zero_grains: self.zero_grains,
            compressed: self.compressed,
            directory,
        })
    }
}

enum Directory {
    /// At these bytes of the file.
    Stored { first: u64, redundant: Option<u64> },
    /// Put together again.
    Salvaged(Salvaged),
}

/// The map of a hosted sparse extent.
pub(super) struct Hosted {
    file: u32,
    file_size: u64,
    grain: u64,
    per_table: u64,
    zero_grains: bool,
    compressed: bool,
    directory: Directory,
}

impl Hosted {
    /// The table that entry `number` of the directory at byte `directory` names; `None` where the file has none such.
    fn table_by(&self, tables: &Tables, directory: u64, number: u64) -> Result<Option<Table<'_>>> {
        let at = directory.saturating_add(number.saturating_mul(4));
        Ok(match u32::from_le_bytes(tables.bytes_of(self.file, at)?) {
            0 => Some(Table::All(Grain::Absent)),
            1 if self.zero_grains => Some(Table::All(Grain::Zero)),
            entry => {
                let at = u64::from(entry) * SECTOR;
                (at + self.per_table * 4 <= self.file_size).then_some(Table::At(at))
            }
        })
    }

    /// Unpack grain `number` into `out`, which is empty.
    pub(super) fn unpack(&self, tables: &Tables, file: &dyn ReadAt, number: u64, out: &mut Vec<u8>) -> Result<()> {
        let Grain::Packed(at) = grain_at(self, tables, number)? else {
            return Err(Error::damaged(format!("grain {number} of the VMDK is not compressed")));
        };
        let marker: [u8; MARKER as usize] = read(file, at)?;
        let (sector, size) = (le64(&marker, 0), le32(&marker, 8));
        if sector != number * (self.grain / SECTOR) || size == 0 || u64::from(size) > packed_max(self.grain) {
            return Err(Error::damaged(format!(
                "grain {number} of the VMDK should be at byte {at}, where there is another or none: it is damaged"
            )));
        }
        let mut packed = vec![0; size as usize];
        if file.read_at(&mut packed, at + MARKER)? < packed.len() {
            return Err(Error::damaged(format!("the VMDK ends within the grain at byte {at}: it was cut off")));
        }
        out.resize(usize::try_from(self.grain).unwrap_or(0), 0);
        let unpacked = DECOMPRESSOR.with_borrow_mut(|d| d.zlib_decompress(&packed, out));
        let len = unpacked.map_err(|e| {
            Error::damaged(format!("the grain at byte {at} of the VMDK cannot be decompressed: it is damaged"))
                .with_source(e)
        })?;
        out.truncate(len);
        Ok(())
    }
}

/// Bytes that a compressed grain of `grain` bytes may have: data that cannot be compressed grows a little.
pub(super) fn packed_max(grain: u64) -> u64 {
    grain.saturating_mul(2).saturating_add(SECTOR)
}

/// `N` bytes at `at` of `file`, the rest zeros where it ends.
pub(super) fn read<const N: usize>(file: &dyn ReadAt, at: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_at(&mut bytes, at)?;
    Ok(bytes)
}

impl Grains for Hosted {
    const ENTRY: usize = 4;

    fn file(&self) -> u32 {
        self.file
    }

    fn grain_size(&self) -> u64 {
        self.grain
    }

    fn per_table(&self) -> u64 {
        self.per_table
    }

    fn table(&self, tables: &Tables, number: u64) -> Result<Table<'_>> {
        let (first, redundant) = match &self.directory {
            Directory::Stored { first, redundant } => (*first, *redundant),
            Directory::Salvaged(salvaged) => return salvaged.table(number),
        };
        let table = self.table_by(tables, first, number)?;
        if let (None | Some(Table::All(Grain::Absent)), Some(redundant)) = (table, redundant) {
            // An entry that was lost, be it to zeros or to anything else. Writers fill in both.
            let other = self.table_by(tables, redundant, number)?;
            if let Some(other @ Table::At(_)) = other {
                return Ok(other);
            }
        }
        table.ok_or_else(|| {
            Error::damaged(format!(
                "entry {number} of the VMDK's grain directory at byte {first} points behind the end of the file: it is \
                 damaged or was cut off"
            ))
        })
    }

    fn grain(&self, entry: &[u8]) -> Result<Grain> {
        Ok(match le32(entry, 0) {
            0 => Grain::Absent,
            1 if self.zero_grains => Grain::Zero,
            at if self.compressed => Grain::Packed(sectors(at.into())?),
            at => Grain::Stored(sectors(at.into())?),
        })
    }
}
