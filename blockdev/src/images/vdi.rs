//! VDI, VirtualBox's image format (VirtualBox's `VDICore.h`; all numbers are little-endian).
//!
//! A header, a table with a `u32` for each block of the disk, and the blocks. A differencing image does not say what its
//! parent is *called*, only which UUID it has; VirtualBox keeps a registry of images. But it calls every differencing
//! image `{UUID}.vdi`, so that a parent that is one itself is found under that name. Another parent, the first image of
//! a disk, is found when it is given that name beside its child.

use std::{fmt, sync::Arc};

use super::{
    Format, Info, Opened, Parent,
    layer::{Layer, Place, Run, joined},
    tables::Tables,
};
use crate::{Error, ReadAt, Result};

const SIGNATURE: u32 = 0xbeda_107f;
/// Bytes of the text and the two numbers before the header.
const PRE_HEADER: usize = 72;
/// Bytes of the header with the UUIDs, which all images of version 1 have.
const HEADER: usize = 400;
/// Bytes of header and what is before.
const HEAD: usize = PRE_HEADER + HEADER;

/// Entries of the block table that are no block numbers.
const ABSENT: u32 = u32::MAX;
const ZERO: u32 = u32::MAX - 1;

/// Bound of the kept pages of the block table, in bytes: with blocks of 1 MiB they cover 256 GiB.
const TABLES_MAX: u64 = 1 << 20;
/// Bytes of the table that are looked at once.
const SECTOR: u64 = 512;

/// What an image is, by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dynamic,
    Fixed,
    Differencing,
}

/// Open an image.
///
/// # Errors
///
/// When it is no VDI image, or of a kind that is not known, or contradicts itself.
pub fn open(file: Arc<dyn ReadAt>) -> Result<Opened> {
    let tables = Tables::new(file, TABLES_MAX);
    let head: [u8; HEAD] = tables.bytes(0)?;
    if le32(&head, 64) != SIGNATURE {
        return Err(Error::damaged("no VDI image: the signature at byte 64 is missing"));
    }
    let version = le32(&head, 68);
    let (major, minor) = (version >> 16, version & 0xffff);
    if (major, minor) != (1, 1) {
        return Err(Error::unsupported(format!("version {major}.{minor} of VDI cannot be read, only 1.1")));
    }
    let kind = match le32(&head, 76) {
        1 => Kind::Dynamic,
        2 => Kind::Fixed,
        4 => Kind::Differencing,
        other => return Err(Error::unsupported(format!("VDI images of type {other} cannot be read (byte 76)"))),
    };
    let sector_size = le32(&head, 360);
    if sector_size != 512 {
        return Err(Error::unsupported(format!("a VDI image with sectors of {sector_size} bytes (byte 360)")));
    }
    let map = Map::new(tables, &head, kind)?;
    let variant = match kind {
        Kind::Dynamic => "dynamic",
        Kind::Fixed => "fixed",
        Kind::Differencing => "differencing",
    };
    let mut info = Info::new(Format::Vdi, variant, map.size);
    info.cluster_size = Some(1 << map.block_bits);
    let [created, modified, parent, parent_modified] = [392, 408, 424, 440].map(|at| Uuid::at(&head, at));
    info.identity = identity(created, modified);
    if kind == Kind::Differencing {
        if parent == Uuid::NIL {
            return Err(Error::damaged("a differencing image that does not say which image it was made on (byte 424)"));
        }
        let names = vec![format!("{{{parent}}}.vdi")];
        let identity = identity(parent, parent_modified);
        info.parent = Some(Parent { names, format: Some(Format::Vdi), identity });
    }
    Ok(Opened { layer: Arc::new(map), info })
}

/// What stands for the content of an image: which it is, and its last modification. Who does not say the latter cannot
/// be held to it.
fn identity(created: Uuid, modified: Uuid) -> Option<String> {
    (modified != Uuid::NIL).then(|| format!("{created} as of {modified}"))
}

/// A UUID as VirtualBox stores it: the first three fields in little-endian order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Uuid([u8; 16]);

impl Uuid {
    const NIL: Self = Self([0; 16]);

    fn at(head: &[u8], at: usize) -> Self {
        Self(head.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default())
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i, j, k, rest @ ..] = self.0;
        let (low, mid, high) =
            (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, g]), u16::from_le_bytes([h, i]));
        write!(f, "{low:08x}-{mid:04x}-{high:04x}-{j:02x}{k:02x}-")?;
        rest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The map of an image: its block table.
struct Map {
    tables: Tables,
    files: [Arc<dyn ReadAt>; 1],
    size: u64,
    /// log2 of the bytes of a block.
    block_bits: u32,
    /// Byte offset of the block table.
    table: u64,
    /// Byte offset of the first block.
    data: u64,
    /// What an entry `ABSENT` means.
    absent: Place,
}

impl Map {
    fn new(tables: Tables, head: &[u8], kind: Kind) -> Result<Self> {
        let (table, data) = (u64::from(le32(head, 340)), u64::from(le32(head, 344)));
        let size = head.get(368..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_le_bytes(*b));
        let (block_size, extra, blocks) = (le32(head, 376), le32(head, 380), le32(head, 384));
        if !block_size.is_power_of_two() || u64::from(block_size) < SECTOR {
            return Err(Error::damaged(format!("blocks of {block_size} bytes (byte 376): only powers of two can be")));
        }
        if extra != 0 {
            return Err(Error::unsupported(format!("a VDI image with {extra} extra bytes in each block (byte 380)")));
        }
        if !table.is_multiple_of(SECTOR) || !data.is_multiple_of(SECTOR) {
            return Err(Error::damaged(format!(
                "the block table is said to be at byte {table} and the blocks at {data}: both begin at sectors"
            )));
        }
        if size.div_ceil(block_size.into()) > blocks.into() {
            return Err(Error::damaged(format!("a table of {blocks} blocks (byte 384) is too small for {size} bytes")));
        }
        let absent = if kind == Kind::Differencing { Place::Absent } else { Place::Zero };
        let files = [Arc::clone(tables.file())];
        Ok(Self { tables, files, size, block_bits: block_size.trailing_zeros(), table, data, absent })
    }
}

impl Layer for Map {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        joined(offset, limit, self.size, |at| {
            let (block, skip) = (at >> self.block_bits, at & ((1 << self.block_bits) - 1));
            let place = match self.tables.le32(self.table.saturating_add(block * 4))? {
                ABSENT => self.absent,
                ZERO => Place::Zero,
                number => {
                    let offset = self.data + (u64::from(number) << self.block_bits) + skip;
                    Place::Stored { file: 0, offset }
                }
            };
            Ok(Run { len: (1 << self.block_bits) - skip, place })
        })
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_le_bytes(*b))
}
