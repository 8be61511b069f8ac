//! Extent items: what a range of a file is.

use blockdev::{
    Error, Result,
    fields::{le16, le64, slice},
    images::layer::Place,
};

use super::unpack::{Method, PACKED_MAX, Unit};

/// Bytes of an item before inline data, and of one without.
const INLINE_AT: usize = 21;
const LEN: usize = 53;
/// The largest inline content: less than a node.
const INLINE_MAX: u64 = 64 << 10;

/// What an extent item says.
#[derive(Debug)]
pub enum Extent<'a> {
    /// The content is in the item.
    Inline {
        /// How it is packed.
        method: Option<Method>,
        /// Bytes of it, not packed.
        len: usize,
        /// As it is stored.
        bytes: &'a [u8],
    },
    /// Zeros: a hole, or allocated and never written.
    Zero { len: u64 },
    /// From this logical address on.
    Stored { logical: u64, len: u64 },
    /// From byte `skip` of the unpacked unit on.
    Packed { unit: Unit, skip: u32, len: u64 },
}

impl<'a> Extent<'a> {
    /// The extent item `item` of a filesystem with sectors of `sector` bytes.
    pub fn parse(item: &'a [u8], sector: u32) -> Result<Self> {
        let byte = |at: usize| slice(item, at, 1).first().copied().unwrap_or(0);
        let (ram, kind) = (le64(item, 8), byte(20));
        if byte(17) != 0 || le16(item, 18) != 0 {
            return Err(Error::unsupported("has data that the guest encrypted"));
        }
        let method = Method::from_number(byte(16))?;
        if kind == 0 {
            if ram > INLINE_MAX || item.len() < INLINE_AT {
                return Err(Error::damaged(format!("has {ram} bytes within its metadata")));
            }
            return Ok(Self::Inline { method, len: ram as usize, bytes: item.get(INLINE_AT..).unwrap_or_default() });
        }
        let (disk, disk_len, skip, len) = (le64(item, 21), le64(item, 29), le64(item, 37), le64(item, 45));
        let is_aligned = [disk, disk_len, skip, len].into_iter().all(|n| n.is_multiple_of(sector.into()));
        if item.len() < LEN || kind > 2 || !is_aligned || len == 0 {
            return Err(Error::damaged(format!("has an extent of {len} bytes and kind {kind}")));
        }
        if kind == 2 || disk == 0 {
            return Ok(Self::Zero { len });
        }
        let room = if method.is_some() { ram.next_multiple_of(sector.into()) } else { disk_len };
        if skip.checked_add(len).is_none_or(|end| end > room) || disk.checked_add(disk_len).is_none() {
            return Err(Error::damaged(format!("has {len} bytes at {skip} of an extent of {room}")));
        }
        let Some(method) = method else { return Ok(Self::Stored { logical: disk + skip, len }) };
        if ram > PACKED_MAX || disk_len > PACKED_MAX || disk_len == 0 {
            return Err(Error::damaged(format!("has a packed extent of {disk_len} bytes, {ram} unpacked")));
        }
        let unit = Unit { method, logical: disk, packed: disk_len as u32, len: room as u32 };
        Ok(Self::Packed { unit, skip: skip as u32, len })
    }

    /// Bytes of the file that it is for.
    pub const fn len(&self) -> u64 {
        match self {
            Self::Inline { len, .. } => *len as u64,
            Self::Zero { len } | Self::Stored { len, .. } | Self::Packed { len, .. } => *len,
        }
    }

    /// Where they are: `data` and `inline` are the numbers of the files with all data, and with what is inline.
    pub fn place(&self, data: u32, inline: u32, sector: u32) -> Result<Place> {
        Ok(match self {
            Self::Inline { .. } => Place::Stored { file: inline, offset: 0 },
            Self::Zero { .. } => Place::Zero,
            Self::Stored { logical, .. } => Place::Stored { file: data, offset: *logical },
            Self::Packed { unit, skip, .. } => Place::Packed { unit: unit.number(sector)?, skip: *skip },
        })
    }
}
