//! Values and their data.

use blockdev::{
    Error, ErrorKind, Result,
    fields::{le16, le32, slice},
};

use super::{cells::Cells, name, units};

/// Bytes of a `vk` cell before its name.
const HEAD: usize = 20;

/// The longest name that is read, in bytes; Windows allows 16383 characters.
const NAME_MAX: usize = 2 * 16_383;

/// The name is in Latin-1.
const IS_LATIN1: u16 = 1;

/// In the length: the data, at most 4 bytes, are in the place of their offset.
const IS_INLINE: u32 = 0x8000_0000;

/// From version 1.4 on, data longer than this, in bytes, are in segments of so many (section "Big data").
const SEGMENT: usize = 16_344;

/// The longest data that are read, in bytes.
const DATA_MAX: usize = 1 << 20;

/// Text, ended by a NUL or not.
const SZ: u32 = 1;
/// Text with names of environment variables.
const EXPAND_SZ: u32 = 2;
/// A number of 32 bits.
const DWORD: u32 = 4;

/// A value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its name; empty for the default value.
    pub name: String,
    /// Its type, as `REG_SZ` (1), `REG_DWORD` (4) and so on have it.
    pub kind: u32,
    /// Its data.
    pub data: Vec<u8>,
}

impl Value {
    /// It as text, up to the first NUL; `None` when it is of another type.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        if !matches!(self.kind, SZ | EXPAND_SZ) {
            return None;
        }
        Some(String::from_utf16_lossy(&units(&self.data).take_while(|unit| *unit != 0).collect::<Vec<_>>()))
    }

    /// It as a number; `None` when it is of another type.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        (self.kind == DWORD && self.data.len() == 4).then(|| le32(&self.data, 0))
    }
}

/// What a `vk` cell says.
pub struct Header {
    pub name: String,
    kind: u32,
    len: u32,
    data: u32,
}

impl Header {
    pub fn at(cells: &Cells, offset: u32) -> Result<Self> {
        let cell = cells.get(offset, HEAD + NAME_MAX)?;
        if !cell.starts_with(b"vk") {
            return Err(Error::damaged(format!("the registry cell at {offset:#x} is no value")));
        }
        Ok(Self {
            name: name(slice(&cell, HEAD, le16(&cell, 2).into()), le16(&cell, 16) & IS_LATIN1 != 0),
            kind: le32(&cell, 12),
            len: le32(&cell, 4),
            data: le32(&cell, 8),
        })
    }

    /// The value with its data.
    pub fn value(self, cells: &Cells) -> Result<Value> {
        let len = usize::try_from(self.len & !IS_INLINE).unwrap_or(usize::MAX);
        let data = if self.len & IS_INLINE != 0 {
            slice(&self.data.to_le_bytes(), 0, len).to_vec()
        } else if len > DATA_MAX {
            return Err(Error::new(ErrorKind::Limit, format!("the registry value {:?} of {len} bytes", self.name)));
        } else if len == 0 {
            Vec::new()
        } else if len > SEGMENT && cells.minor >= 4 {
            segments(cells, self.data, len)?
        } else {
            cells.exactly(self.data, len)?
        };
        Ok(Value { name: self.name, kind: self.kind, data })
    }
}

/// Data of `len` bytes in segments; a writer that does not know of them has put the data themselves at `offset`.
fn segments(cells: &Cells, offset: u32, len: usize) -> Result<Vec<u8>> {
    let head = cells.get(offset, 8)?;
    let count = usize::from(le16(&head, 2));
    if !head.starts_with(b"db") || count != len.div_ceil(SEGMENT) {
        return cells.exactly(offset, len);
    }
    let list = cells.exactly(le32(&head, 4), count * 4)?;
    let mut data = Vec::with_capacity(len);
    for segment in list.as_chunks::<4>().0 {
        data.extend(cells.exactly(u32::from_le_bytes(*segment), SEGMENT.min(len - data.len()))?);
    }
    Ok(data)
}
