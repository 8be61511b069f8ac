//! A node of a B+ tree: rows with keys and values, and an array of their offsets in the order of the keys.
//!
//! A node fills a page behind its header, or is the value of a row of another tree. Nodes of extents have no such rows:
//! they are told by a flag, and have entries of one length.

use std::{ops::Range, sync::Arc};

use blockdev::{
    Error, Result,
    fields::{le16, le32, slice},
};

/// Rows of a node: fewer than twelve bits can count, and more than a page has room for.
pub const ROWS_MAX: usize = 4094;

/// The highest level that a node can have: a tree of five levels has room for anything.
pub const LEVEL_MAX: u8 = 4;

/// Bytes of the header of a node.
const HEADER: usize = 32;

/// Bytes of the header of a row.
const ROW_HEADER: usize = 16;

/// Bytes that do not change, shared.
#[derive(Debug, Clone)]
pub struct Span {
    bytes: Arc<[u8]>,
    range: Range<usize>,
}

impl Span {
    /// Those of `bytes` from `start` on.
    pub const fn new(bytes: Arc<[u8]>, start: usize, end: usize) -> Self {
        Self { bytes, range: start..end }
    }

    /// The bytes.
    pub fn get(&self) -> &[u8] {
        self.bytes.get(self.range.clone()).unwrap_or_default()
    }

    /// A part of it, which lies in it.
    fn part(&self, at: usize, len: usize) -> Option<Self> {
        let start = self.range.start.checked_add(at)?;
        let end = start.checked_add(len).filter(|end| *end <= self.range.end)?;
        Some(Self { bytes: Arc::clone(&self.bytes), range: start..end })
    }
}

/// A row.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its key.
    pub key: Span,
    /// Its value.
    pub value: Span,
    /// Whether it was deleted: it only keeps its place in the order.
    pub is_deleted: bool,
}

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    /// From the node's header on.
    bytes: Span,
    /// 0 for a leaf.
    pub level: u8,
    is_of_extents: bool,
    /// Where the data of rows begins and ends.
    data: Range<usize>,
    /// Where the array of offsets begins; 0 when there is none.
    offsets: usize,
    /// How many rows there are.
    pub count: usize,
}

impl Node {
    /// The node in `bytes`, which begin with the offset of its header.
    ///
    /// # Errors
    ///
    /// When it has more than there is room for.
    pub fn parse(bytes: &Span) -> Result<Self> {
        let at = le32(bytes.get(), 0) as usize;
        let header =
            bytes.part(at, bytes.get().len().saturating_sub(at)).filter(|h| at >= 4 && h.get().len() >= HEADER);
        let bytes = header.ok_or_else(|| Error::damaged("a node of ReFS begins behind its page"))?;
        let header = bytes.get();
        let (level, flags) = (slice(header, 0x0c, 1), slice(header, 0x0d, 1));
        let (level, flags) = (level.first().copied().unwrap_or(0), flags.first().copied().unwrap_or(0));
        let (count, offsets) = (le32(header, 0x14) as usize, le32(header, 0x10) as usize);
        let data = le32(header, 0) as usize..le32(header, 4) as usize;
        let has_room = count.checked_mul(4).and_then(|len| offsets.checked_add(len)).is_some_and(|e| e <= header.len());
        if level > LEVEL_MAX || count > ROWS_MAX || !has_room || data.end > header.len() || data.start > data.end {
            return Err(Error::damaged(format!("a node of ReFS has {count} rows on level {level}: no room for them")));
        }
        let is_of_extents = flags & 4 != 0 && level == 0;
        Ok(Self { level, is_of_extents, data, offsets, count, bytes })
    }

    /// Row `index`.
    ///
    /// # Errors
    ///
    /// When it does not lie in the node.
    pub fn row(&self, index: usize) -> Result<Row> {
        const DELETED: u16 = 4;
        let at = self.offset(index);
        let header = slice(self.bytes.get(), at, ROW_HEADER);
        let field = |place: usize| usize::from(le16(header, place));
        let (key, value) = (self.bytes.part(at + field(4), field(6)), self.bytes.part(at + field(10), field(12)));
        match (key, value) {
            (Some(key), Some(value)) if header.len() == ROW_HEADER => {
                Ok(Row { key, value, is_deleted: le16(header, 8) & DELETED != 0 })
            }
            _ => Err(Error::damaged(format!("row {index} of a node of ReFS does not lie in it"))),
        }
    }

    /// The offset of row `index`: the lower half of an item; version 3 has something else in the upper one.
    fn offset(&self, index: usize) -> usize {
        usize::from(le16(self.bytes.get(), self.offsets + index * 4))
    }

    /// The entries of a leaf of extents that has no rows; `None` when it has.
    ///
    /// # Errors
    ///
    /// When they do not lie in the node.
    pub fn extents(&self) -> Result<Option<Vec<Span>>> {
        const EXTENT: usize = 24;
        if !self.is_of_extents {
            return Ok(None);
        }
        // Without an array they lie side by side: 24 bytes each, or more with a checksum.
        let stride = self.data.len().checked_div(self.count).unwrap_or(0);
        let place = |index: usize| match self.offsets {
            0 => self.data.start + index * stride,
            _ => self.offset(index),
        };
        let entries = (0..self.count).map(|index| self.bytes.part(place(index), EXTENT));
        let entries: Option<Vec<_>> = entries.collect();
        entries.map(Some).ok_or_else(|| Error::damaged("extents of ReFS do not lie in their node"))
    }
}
