//! VHD, the disk images of Virtual PC, Hyper-V before 2012, XenServer and Azure (Microsoft's "Virtual Hard Disk Image
//! Format Specification" 1.0). All numbers are big-endian.
//!
//! A *fixed* image is the disk with a footer behind. A *dynamic* one has a header and a table with
//! one entry a block, which is a bitmap of its sectors and then its data; a *differencing* one is the same, and its
//! bitmaps tell which sectors are its own and which its parent's.

pub(crate) mod footer;
mod header;

use std::sync::Arc;

pub use footer::is_fixed;

use self::{
    footer::{Found, Kind},
    header::Header,
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

/// The table's entry of a block that is not in the file.
const NOT_ALLOCATED: u32 = u32::MAX;

/// A fixed image: the disk begins where the file does.
struct Fixed {
    size: u64,
    /// Where the footer begins.
    end: u64,
    files: [Arc<dyn ReadAt>; 1],
}

impl Layer for Fixed {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, _limit: u64) -> Result<Run> {
        stored(offset, self.size.saturating_sub(offset), self.end)
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }
}

/// A dynamic or differencing image.
struct Blocks {
    size: u64,
    header: Header,
    /// The bytes of a block's bitmap.
    bitmap: u64,
    /// Where sectors are whose bit is not set; `None` if the bits do not count.
    clear: Option<Place>,
    tables: Tables,
    files: [Arc<dyn ReadAt>; 1],
}

impl Blocks {
    /// The run at `offset`, within its block.
    fn piece(&self, offset: u64, limit: u64) -> Result<Run> {
        let (number, within) = (offset / self.header.block, offset % self.header.block);
        let left = (self.header.block - within).min(self.size.saturating_sub(offset));
        let entry = self.tables.be32(self.header.table.saturating_add(number * 4))?;
        if entry == NOT_ALLOCATED {
            return Ok(Run { len: left, place: Place::Absent });
        }
        let block = u64::from(entry) * 512;
        let table = self.header.table..self.header.table.saturating_add(u64::from(self.header.blocks) * 4);
        let block_end = block.saturating_add(self.bitmap + self.header.block);
        if block < footer::LEN || block < table.end && table.start < block_end {
            return Err(Error::damaged(format!(
                "block {number} of the disk lies at byte {block}, on the image's own tables"
            )));
        }
        let mut len = left;
        if let Some(clear) = self.clear {
            let sector = within / 512;
            let wanted = left.min(limit).saturating_add(within % 512).div_ceil(512);
            let (set, sectors) = equal_bits(&self.tables, BitOrder::HighFirst, block, sector, wanted)?;
            len = left.min((sector + sectors) * 512 - within);
            if !set {
                return Ok(Run { len, place: clear });
            }
        }
        stored(block + self.bitmap + within, len, self.tables.file().size())
    }
}

impl Layer for Blocks {
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

/// Open a VHD.
///
/// # Errors
///
/// When the file has no footer whose checksum is right, when it is of a version or type that is not known, or when its
/// headers contradict themselves.
pub fn open(file: Arc<dyn ReadAt>) -> Result<Opened> {
    let Some((footer, found)) = footer::find(file.as_ref())? else {
        return Err(Error::damaged(
            "neither the end of the file nor its beginning has the footer of a VHD: it was cut off, take another copy",
        ));
    };
    let (kind, size) = (footer.kind()?, footer.size()?);
    let mut info = Info::new(Format::Vhd, kind.name(), size);
    info.identity = Some(footer.unique_id().to_string());
    info.notes.extend(footer.size_note()?);
    if footer.saved_state() {
        info.notes.push("the machine was asleep: the disk alone is not all of its state".into());
    }
    let files = [Arc::clone(&file)];
    let end = match found {
        Found::End(at) => at,
        Found::Copy => {
            info.notes.push("the footer at the end is damaged or missing: its copy at the beginning is used".into());
            file.size()
        }
    };
    if kind == Kind::Fixed {
        return Ok(Opened { layer: Arc::new(Fixed { size, end, files }), info });
    }
    let tables = Tables::new(file, TABLES_MAX);
    let at = footer.data_offset();
    if at > tables.file().size() {
        return Err(Error::damaged(format!(
            "the dynamic disk header should be at byte {at}, behind the end of the file"
        )));
    }
    let header = Header::read(&tables, at)?;
    if u64::from(header.blocks) * header.block < size {
        return Err(Error::damaged(format!(
            "the table of {} blocks of {} bytes is too short for a disk of {size} bytes",
            header.blocks, header.block
        )));
    }
    info.cluster_size = Some(header.block);
    let clear = match kind {
        Kind::Differencing => {
            info.parent = Some(Header::parent(&tables, at)?);
            Some(Place::Absent)
        }
        // XenServer keeps images on volumes that are not zeroed: what its bitmaps do not have is rubbish. All others
        // write zeros there, and some do not keep the bitmaps of dynamic images; QEMU ignores them.
        _ if footer.creator().starts_with(b"tap") => Some(Place::Zero),
        _ => None,
    };
    let bitmap = (header.block / 512).div_ceil(8).next_multiple_of(512);
    Ok(Opened { layer: Arc::new(Blocks { size, header, bitmap, clear, tables, files }), info })
}
