//! VHDX, the disk images of Hyper-V (Microsoft's MS-VHDX). All numbers are little-endian.
//!
//! The first MiB has two headers and two region tables, which lead to the metadata and to the block
//! allocation table: one entry a block, and after every few blocks (a *chunk*) one for the bitmap of their sectors,
//! which tells in a *differencing* image which are its own and which its parent's. *Fixed* images are dynamic ones
//! whose blocks are all allocated. Changes of the tables go through a log; where it is not empty, everything is read
//! through its replay.

pub(crate) mod guid;
mod header;
pub(crate) mod ids;
mod log;
mod metadata;
mod replay;

use std::{ops::Range, sync::Arc};

use self::{
    guid::Guid,
    header::{Header, Regions},
    ids::MIB,
    metadata::Metadata,
    replay::Replayed,
};
use super::{
    Format, Info, Opened,
    blocks::{BitOrder, equal_bits, stored},
    layer::{Layer, Place, Run, joined},
    tables::Tables,
};
use crate::{Error, ReadAt, Result};

/// Bytes of tables and bitmaps that are kept.
const TABLES_MAX: u64 = 2 << 20;

/// Sectors that one bitmap block stands for (2.5.1.2).
const CHUNK_SECTORS: u64 = 1 << 23;

/// The states of a block (2.5.1.1), the low three bits of its entry.
mod state {
    pub const NOT_PRESENT: u64 = 0;
    pub const UNDEFINED: u64 = 1;
    pub const ZERO: u64 = 2;
    pub const UNMAPPED: u64 = 3;
    /// So it was called in the draft of the specification.
    pub const UNMAPPED_DRAFT: u64 = 5;
    pub const FULLY_PRESENT: u64 = 6;
    pub const PARTIALLY_PRESENT: u64 = 7;
}

/// The map of one image.
struct Vhdx {
    size: u64,
    block: u64,
    sector: u64,
    /// Blocks that share a bitmap.
    chunk: u64,
    has_parent: bool,
    bat: u64,
    /// Log, metadata and table, where no block can be.
    reserved: [Range<u64>; 3],
    tables: Tables,
    files: [Arc<dyn ReadAt>; 1],
}

impl Vhdx {
    /// Entry number `index` of the table: its state and where it points.
    fn entry(&self, index: u64, len: u64) -> Result<(u64, u64)> {
        let entry = self.tables.le64(self.bat.saturating_add(index * 8))?;
        let (state, at) = (entry & 7, entry & !(MIB - 1));
        if matches!(state, state::FULLY_PRESENT | state::PARTIALLY_PRESENT) {
            let end = at.saturating_add(len);
            if at < MIB || self.reserved.iter().any(|r| overlap(r, &(at..end))) {
                return Err(Error::damaged(format!(
                    "entry {index} of the block allocation table points to byte {at}, to the image's own tables"
                )));
            }
        }
        Ok((state, at))
    }

    /// The run at `offset`, within its block.
    fn piece(&self, offset: u64, limit: u64) -> Result<Run> {
        let (number, within) = (offset / self.block, offset % self.block);
        let left = (self.block - within).min(self.size.saturating_sub(offset));
        let (state, at) = self.entry(number + number / self.chunk, self.block)?;
        match state {
            state::NOT_PRESENT => Ok(Run { len: left, place: Place::Absent }),
            // The parent's bytes are not meant even where ours are gone (2.5.1.1).
            state::UNDEFINED | state::ZERO | state::UNMAPPED | state::UNMAPPED_DRAFT => {
                Ok(Run { len: left, place: Place::Zero })
            }
            state::FULLY_PRESENT => stored(at + within, left, self.tables.file().size()),
            state::PARTIALLY_PRESENT if self.has_parent => {
                let (chunk, in_chunk) = (number / self.chunk, number % self.chunk);
                let (bitmap_state, bitmap) = self.entry(chunk * (self.chunk + 1) + self.chunk, MIB)?;
                if bitmap_state != state::FULLY_PRESENT {
                    return Err(Error::damaged(format!("block {number} of the disk needs a bitmap that is not there")));
                }
                let sector = within / self.sector;
                let first = in_chunk * (self.block / self.sector) + sector;
                let wanted = left.min(limit).saturating_add(within % self.sector).div_ceil(self.sector);
                let (own, sectors) = equal_bits(&self.tables, BitOrder::LowFirst, bitmap, first, wanted)?;
                let len = left.min((sector + sectors) * self.sector - within);
                if own {
                    stored(at + within, len, self.tables.file().size())
                } else {
                    Ok(Run { len, place: Place::Absent })
                }
            }
            _ => Err(Error::damaged(format!("block {number} of the disk is in state {state}, which it cannot be in"))),
        }
    }
}

impl Layer for Vhdx {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        let end = offset.saturating_add(limit);
        joined(offset, limit, self.size, |at| self.piece(at, end.saturating_sub(at)))
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }
}

/// Open a VHDX.
///
/// # Errors
///
/// When no header or region table has its checksum, when the image needs something that is not known, when its parts
/// contradict each other, or when it was not closed and its log cannot be replayed.
pub fn open(file: Arc<dyn ReadAt>) -> Result<Opened> {
    let mut signature = [0; 8];
    file.read_at(&mut signature, 0)?;
    if signature != *b"vhdxfile" {
        return Err(Error::damaged("the file does not begin as a VHDX does: it is damaged or something else"));
    }
    let header = Header::read(file.as_ref())?;
    let mut notes = Vec::new();
    let patches = log::read(file.as_ref(), &header)?;
    let file: Arc<dyn ReadAt> = match patches {
        Some(patches) => {
            notes.push(format!("not closed properly: its log was replayed in memory, {} changes", patches.len()));
            Arc::new(Replayed::new(file, patches))
        }
        None => {
            if header.log_guid != Guid::NIL {
                notes.push("not closed properly; its log is empty".into());
            }
            file
        }
    };
    let Regions { bat, metadata: region } = Regions::read(file.as_ref())?;
    let tables = Tables::new(Arc::clone(&file), TABLES_MAX);
    let metadata = Metadata::read(&tables, &region)?;
    let log = header.log_at..header.log_at.saturating_add(header.log_len);
    for (one, other) in [(&bat, &region), (&bat, &log), (&region, &log)] {
        if overlap(one, other) {
            return Err(Error::damaged(format!("tables at bytes {} and {} overlap", one.start, other.start)));
        }
    }
    let has_parent = metadata.parent.is_some();
    let sector = u64::from(metadata.sizes.logical);
    let chunk = CHUNK_SECTORS * sector / metadata.block;
    let entries = entries(metadata.size.div_ceil(metadata.block), chunk, has_parent);
    if entries * 8 > bat.end - bat.start {
        return Err(Error::damaged(format!(
            "the block allocation table has {} bytes, too few for a disk of {}",
            bat.end - bat.start,
            metadata.size
        )));
    }
    let variant = match (has_parent, metadata.fixed) {
        (true, _) => "differencing",
        (false, true) => "fixed",
        (false, false) => "dynamic",
    };
    let mut info = Info::new(Format::Vhdx, variant, metadata.size);
    info.cluster_size = Some(metadata.block);
    info.block_sizes = metadata.sizes;
    info.identity = Some(header.data_write.to_string());
    info.parent = metadata.parent;
    info.notes = notes;
    let layer = Vhdx {
        size: metadata.size,
        block: metadata.block,
        sector,
        chunk,
        has_parent,
        bat: bat.start,
        reserved: [log, region, bat],
        tables,
        files: [file],
    };
    Ok(Opened { layer: Arc::new(layer), info })
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    !one.is_empty() && one.start < other.end && other.start < one.end && !other.is_empty()
}

/// Entries that the table of `blocks` blocks has (2.5): only images with a parent need the last bitmap.
const fn entries(blocks: u64, chunk: u64, has_parent: bool) -> u64 {
    if has_parent { blocks.div_ceil(chunk) * (chunk + 1) } else { blocks + blocks.saturating_sub(1) / chunk }
}
