//! The end of a streamOptimized extent, and what can be done without it.
//!
//! Such an extent is written in one go: grains, after each table's worth of them that table, then the grain directory,
//! a *footer* that is the header with the directory's place, and an end marker. Each part has a marker of a sector in
//! front: a number, a size, and, where the size is 0, a type. Where the footer is missing, because the file was cut off
//! or something was appended to it, the markers are walked. If that leads to the directory, nothing is lost. Otherwise
//! the tables found on the way, and the grains behind the last of them, serve instead; where the disk goes on behind
//! the last grain found, reading fails.

use super::{
    grains::{SECTOR, Table, le32, le64, lost},
    hosted::{Header, MARKER, packed_max, read},
};
use crate::{Error, ErrorKind, ReadAt, Result};

/// Markers that are walked at most: 512 GiB of grains of the usual size. Each costs a read of a few bytes.
const MARKERS_MAX: u32 = 1 << 23;

/// Where the grain directory is.
pub(super) enum Found {
    /// At this byte of the file.
    Directory(u64),
    /// Nowhere.
    Salvaged(Salvaged),
}

/// What serves instead of a grain directory that is missing.
pub(super) struct Salvaged {
    /// Numbers and sectors of the grain tables that are there, ascending.
    tables: Vec<(u64, u32)>,
    /// The number of the table that is not, and its entries as far as grains were found.
    tail: (u64, Vec<u32>),
    per_table: u64,
}

impl Salvaged {
    /// Grain table `number`.
    pub(super) fn table(&self, number: u64) -> Result<Table<'_>> {
        let (tail, held) = &self.tail;
        if !held.is_empty() && number == *tail {
            return Ok(Table::Held(held));
        }
        match self.tables.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(i) => self.tables.get(i).map(|(_, sector)| Table::At(u64::from(*sector) * SECTOR)).ok_or_else(lost),
            // Tables without grains are left out; grains and tables ascend.
            Err(i) if i < self.tables.len() || (!held.is_empty() && number < *tail) => {
                Ok(Table::All(super::grains::Grain::Absent))
            }
            Err(_) => Err(lost()),
        }
    }

    /// What an operator should know, with `grain` sectors to a grain.
    pub(super) fn note(&self, grain: u64) -> String {
        let (tail, held) = &self.tail;
        let grains = match self.tables.last() {
            _ if !held.is_empty() => tail * self.per_table + held.len() as u64,
            Some((number, _)) => (number + 1) * self.per_table,
            None => 0,
        };
        format!("the image was cut off: what is behind byte {} of the disk is lost", grains * grain * SECTOR)
    }
}

/// Find the grain directory of `file`, whose header leaves it to the footer.
pub(super) fn find_directory(file: &dyn ReadAt, header: &Header) -> Result<Found> {
    // The footer, and the end marker behind it, are the last two sectors.
    let footer = (file.size() - file.size() % SECTOR).checked_sub(2 * SECTOR).map(|at| Header::read(file, at));
    if let Some(Ok(footer)) = footer
        && (footer.capacity, footer.grain, footer.per_table) == (header.capacity, header.grain, header.per_table)
        && let Some(at) = footer.directory()
        && header.directory_fits(at, file.size())
    {
        return Ok(Found::Directory(at));
    }
    Walk::new(file, header).run()
}

/// A walk over the markers of an extent.
struct Walk<'a> {
    file: &'a dyn ReadAt,
    header: &'a Header,
    /// Sector of the next marker.
    at: u64,
    /// First sector of the disk that the next grain may be for.
    next: u64,
    found: Salvaged,
}

/// What a marker was.
enum Step {
    Next,
    /// The directory, at this byte.
    Directory(u64),
    /// The end, or what cannot be there.
    End,
}

impl<'a> Walk<'a> {
    fn new(file: &'a dyn ReadAt, header: &'a Header) -> Self {
        let found = Salvaged { tables: Vec::new(), tail: (0, Vec::new()), per_table: header.per_table.into() };
        Self { file, header, at: header.overhead.max(1), next: 0, found }
    }

    fn run(mut self) -> Result<Found> {
        for _ in 0..MARKERS_MAX {
            match self.step()? {
                Step::Next => {}
                Step::Directory(at) => return Ok(Found::Directory(at)),
                Step::End => return Ok(Found::Salvaged(self.found)),
            }
        }
        Err(Error::new(
            ErrorKind::Limit,
            format!("the VMDK has no footer, and more than {MARKERS_MAX} grains: too many to look for its directory"),
        ))
    }

    fn step(&mut self) -> Result<Step> {
        const GRAIN_TABLE: u32 = 1;
        const GRAIN_DIRECTORY: u32 = 2;
        const PROGRESS: u32 = 4;
        let Some(byte) = self.at.checked_mul(SECTOR) else { return Ok(Step::End) };
        let marker: [u8; 16] = read(self.file, byte)?;
        let (number, size, kind) = (le64(&marker, 0), le32(&marker, 8), le32(&marker, 12));
        let metadata = byte.saturating_add(SECTOR);
        Ok(match kind {
            _ if size > 0 => self.grain(byte, number, size),
            GRAIN_TABLE => self.table(metadata),
            GRAIN_DIRECTORY if self.header.directory_fits(metadata, self.file.size()) => Step::Directory(metadata),
            PROGRESS => {
                self.at = self.at.saturating_add(1);
                Step::Next
            }
            _ => Step::End,
        })
    }

    fn grain(&mut self, byte: u64, sector: u64, size: u32) -> Step {
        let header = self.header;
        let end = byte.saturating_add(MARKER + u64::from(size));
        let fits = end <= self.file.size() && u64::from(size) <= packed_max(header.grain * SECTOR);
        let placed = sector.is_multiple_of(header.grain) && (self.next..header.capacity).contains(&sector);
        let (Ok(at), true) = (u32::try_from(self.at), fits && placed) else { return Step::End };
        let number = sector / header.per_table_sectors();
        let index = (sector % header.per_table_sectors() / header.grain) as usize;
        let (tail, held) = &mut self.found.tail;
        if !held.is_empty() && *tail != number {
            // The table before was never written: this is no stream of the usual order.
            return Step::End;
        }
        *tail = number;
        held.resize(index, 0);
        held.push(at);
        self.next = sector + header.grain;
        self.at = end.div_ceil(SECTOR);
        Step::Next
    }

    fn table(&mut self, byte: u64) -> Step {
        let end = byte.saturating_add(self.header.table_size());
        let (tail, held) = &mut self.found.tail;
        let (Ok(at), false) = (u32::try_from(byte / SECTOR), held.is_empty() || end > self.file.size()) else {
            return Step::End;
        };
        self.found.tables.push((*tail, at));
        held.clear();
        self.next = (*tail + 1).saturating_mul(self.header.per_table_sectors());
        self.at = end.div_ceil(SECTOR);
        Step::Next
    }
}
