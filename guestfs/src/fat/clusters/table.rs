//! The file allocation table: for each cluster the number of the one after it ("Microsoft FAT Specification", 4; "exFAT
//! File System Specification", 4.1).
//!
//! It is read in pieces of equally many entries, which are kept in bounded memory. A piece of FAT12, whose entries have
//! a byte and a half, has no entry that is only half in it.

use std::sync::Arc;

use blockdev::{
    BlockDevice, Error, Result,
    fields::{le16, le32, read},
};

use crate::blocks::Blocks;

/// Entries of a piece.
const PIECE: u32 = 8192;

/// Bound of the pieces that are kept, in bytes.
const PIECES_MAX: u64 = 4 << 20;

/// How wide an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 12 bits.
    Fat12,
    /// 16 bits.
    Fat16,
    /// 32 bits, of which the upper four say nothing.
    Fat32,
    /// 32 bits.
    ExFat,
}

impl Width {
    /// Bits that an entry takes.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 | Self::ExFat => 32,
        }
    }

    /// The bits of an entry that count, all set: the highest of the numbers that end a chain.
    pub const fn mask(self) -> u32 {
        match self {
            Self::Fat12 => 0xfff,
            Self::Fat16 => 0xffff,
            Self::Fat32 => 0x0fff_ffff,
            Self::ExFat => u32::MAX,
        }
    }

    const fn piece_bytes(self) -> u32 {
        PIECE / 8 * self.bits()
    }
}

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This cluster comes next; whether it exists is not checked.
    Cluster(u32),
    /// It was the last.
    End,
    /// The cluster belongs to nothing.
    Free,
    /// The cluster is marked bad.
    Bad,
}

/// Where a table is, and its copies.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// How wide its entries are.
    pub width: Width,
    /// Byte of the volume at which the first copy begins.
    pub start: u64,
    /// Bytes of a copy.
    pub len: u64,
    /// Entries that count: the clusters and two more.
    pub entries: u32,
    /// The copy to read.
    pub first: u8,
    /// The copy to read where that one is damaged.
    pub other: Option<u8>,
}

/// A table.
pub struct Table {
    layout: Layout,
    pieces: Blocks,
}

impl Table {
    /// The table of `device` that `layout` tells of.
    pub fn new(device: Arc<dyn BlockDevice>, layout: Layout) -> Self {
        Self { layout, pieces: Blocks::new(device, PIECES_MAX) }
    }

    /// The volume.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        self.pieces.device()
    }

    /// The copy to read.
    pub const fn first_copy(&self) -> u8 {
        self.layout.first
    }

    /// The copy to read where that one is damaged.
    pub const fn other_copy(&self) -> Option<u8> {
        self.layout.other
    }

    /// Something that reads entries of copy `copy`.
    pub const fn cursor(&self, copy: u8) -> Cursor<'_> {
        Cursor { table: self, copy, piece: None }
    }

    /// How many clusters are free.
    ///
    /// # Errors
    ///
    /// When the table cannot be read.
    pub fn free(&self) -> Result<u32> {
        let mut free = 0;
        // The pieces are not kept: that would drive out what is needed more often.
        for number in 0..self.layout.entries.div_ceil(PIECE) {
            let (at, len) = self.piece_place(self.layout.first, number);
            let piece = read(self.device().as_ref(), at, len)?;
            if piece.len() < len {
                return Err(behind_the_end(at));
            }
            let entries = self.layout.entries.saturating_sub(number * PIECE).min(PIECE);
            let clusters = if number == 0 { 2..entries } else { 0..entries };
            free += clusters.filter(|within| self.entry(&piece, *within) == 0).count() as u32;
        }
        Ok(free)
    }

    /// Where piece `number` of `copy` is, and how many bytes it has: the last is shorter.
    fn piece_place(&self, copy: u8, number: u32) -> (u64, usize) {
        let Layout { width, start, len, entries, .. } = self.layout;
        let left = entries.saturating_sub(number.saturating_mul(PIECE)).min(PIECE);
        let bytes = (left * width.bits()).div_ceil(8);
        let at = u64::from(number) * u64::from(width.piece_bytes()) + u64::from(copy) * len;
        (start.saturating_add(at), bytes as usize)
    }

    /// The entry `within` a piece.
    fn entry(&self, piece: &[u8], within: u32) -> u32 {
        let at = within as usize;
        let entry = match self.layout.width {
            // Two entries in three bytes: the lower one first, and its upper half-byte in the lower half of the second.
            Width::Fat12 => u32::from(le16(piece, at + at / 2) >> (4 * (within & 1))),
            Width::Fat16 => le16(piece, at * 2).into(),
            Width::Fat32 | Width::ExFat => le32(piece, at * 4),
        };
        entry & self.layout.width.mask()
    }
}

fn behind_the_end(at: u64) -> Error {
    Error::damaged(format!("the file allocation table at byte {at} lies behind the end of the volume"))
}

/// A piece at hand: a chain goes on in it most of the time.
pub struct Cursor<'a> {
    table: &'a Table,
    copy: u8,
    piece: Option<(u32, Arc<[u8]>)>,
}

impl Cursor<'_> {
    /// The entry number `cluster` as it is.
    ///
    /// # Errors
    ///
    /// When the table cannot be read or has no such entry.
    pub fn raw(&mut self, cluster: u32) -> Result<u32> {
        if cluster >= self.table.layout.entries {
            return Err(Error::damaged(format!("the file allocation table has no entry {cluster}")));
        }
        let (number, within) = (cluster / PIECE, cluster % PIECE);
        let piece = match &self.piece {
            Some((at_hand, piece)) if *at_hand == number => piece,
            _ => {
                let (at, len) = self.table.piece_place(self.copy, number);
                let piece = self.table.pieces.get(at, len, |_| Ok(()))?;
                &self.piece.insert((number, piece)).1
            }
        };
        Ok(self.table.entry(piece, within))
    }

    /// What comes after `cluster`.
    ///
    /// # Errors
    ///
    /// As [`raw`](Self::raw).
    pub fn next(&mut self, cluster: u32) -> Result<Next> {
        let (entry, mask) = (self.raw(cluster)?, self.table.layout.width.mask());
        Ok(match entry {
            0 => Next::Free,
            // The highest eight numbers end a chain, the one below is a bad cluster.
            _ if entry >= mask - 7 => Next::End,
            _ if entry == mask - 8 => Next::Bad,
            _ => Next::Cluster(entry),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fat::clusters::tests::volume;

    fn cursor_over(bytes: Vec<u8>, width: Width, entries: u32) -> Table {
        let len = bytes.len() as u64;
        Table::new(volume(bytes), Layout { width, start: 0, len, entries, first: 0, other: None })
    }

    #[test]
    fn entries_of_twelve_bits_share_a_byte() {
        let table = cursor_over(vec![0xf8, 0xff, 0xff, 0x03, 0x40, 0x00, 0x05, 0x70, 0xff], Width::Fat12, 6);
        let mut cursor = table.cursor(0);
        assert_eq!(cursor.raw(0).unwrap(), 0xff8);
        assert_eq!(cursor.next(1).unwrap(), Next::End);
        assert_eq!(cursor.next(2).unwrap(), Next::Cluster(3));
        assert_eq!(cursor.next(3).unwrap(), Next::Cluster(4));
        assert_eq!(cursor.next(4).unwrap(), Next::Cluster(5));
        assert_eq!(cursor.next(5).unwrap(), Next::Bad);
        assert!(cursor.raw(6).is_err());
        assert_eq!(table.free().unwrap(), 0);
    }

    #[test]
    fn the_upper_bits_of_fat32_say_nothing() {
        let entries: [u32; 5] = [0x0fff_fff8, u32::MAX, 0x5000_0003, 0xffff_fff7, 0xf000_0000];
        let table = cursor_over(entries.iter().flat_map(|e| e.to_le_bytes()).collect(), Width::Fat32, 5);
        let mut cursor = table.cursor(0);
        assert_eq!(cursor.next(2).unwrap(), Next::Cluster(3));
        assert_eq!(cursor.next(3).unwrap(), Next::Bad);
        assert_eq!(cursor.next(4).unwrap(), Next::Free);
        assert_eq!(table.free().unwrap(), 1);
    }
}
