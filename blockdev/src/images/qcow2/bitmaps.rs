//! Bitmaps of changed blocks ("Bitmaps"): a directory of names, and for each bitmap a table of clusters.

use std::{iter::FusedIterator, ops::Range};

use super::{
    NAMES_MAX,
    header::{Header, Table},
    map::{Geometry, OFFSET},
    text,
};
use crate::{
    Error, ErrorKind, Result,
    images::{Bitmap, tables::Tables},
};

/// Bitmaps that an image may have; QEMU takes no more either.
const BITMAPS_MAX: u32 = 65_535;
/// Bytes of the fixed part of a directory entry.
const FIXED: u64 = 24;
/// Bytes of the largest bitmap; QEMU takes no more either.
const BITMAP_MAX: u64 = 512 << 20;
/// Blocks are 512 bytes to 2 GiB, as QEMU's are.
const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;

/// The flags of a directory entry.
mod flag {
    pub(super) const IN_USE: u32 = 1;
    pub(super) const EXTRA_DATA_COMPATIBLE: u32 = 1 << 2;
    pub(super) const KNOWN: u32 = 0b111;
}

/// The only type of bitmap there is so far.
const DIRTY_TRACKING: u8 = 1;

/// All bitmaps of an image.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) entries: Vec<Entry>,
    /// What wrote the image last did not know bitmaps.
    outdated: bool,
}

/// A bitmap.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) about: Bitmap,
    table: Table,
    granularity_bits: u8,
    kind: u8,
    flags: u32,
    extra_length: u64,
}

impl Directory {
    /// The bitmaps of the image.
    pub(super) fn read(tables: &Tables, header: &Header) -> Result<Self> {
        let Some(bitmaps) = header.bitmaps else { return Ok(Self::default()) };
        let Table { offset, entries } = bitmaps.directory;
        if entries > BITMAPS_MAX {
            return Err(Error::new(ErrorKind::Limit, format!("{entries} bitmaps are more than {BITMAPS_MAX}")));
        }
        header.geometry.check_aligned(offset, "the bitmap directory")?;
        let mut directory = Self { entries: Vec::new(), outdated: !bitmaps.consistent };
        let mut left = bitmaps.directory_size;
        let mut names_left = NAMES_MAX;
        let mut at = offset;
        for _ in 0..entries {
            let (mut entry, length) = Entry::read(tables, at, &mut names_left)?;
            entry.about.in_use |= directory.outdated;
            directory.entries.push(entry);
            let length = length.next_multiple_of(8);
            left = left.checked_sub(length).ok_or_else(|| {
                Error::damaged(format!("the bitmap directory at byte {offset} has more entries than its size allows"))
            })?;
            at = at.saturating_add(length);
        }
        Ok(directory)
    }

    /// What an operator should know of them.
    pub(super) fn note(&self) -> Option<String> {
        let outdated = self.outdated && !self.entries.is_empty();
        outdated.then(|| "was last written by what does not know bitmaps: those that it has are out of date".to_owned())
    }
}

impl Entry {
    /// The entry at `at`, and its length without padding.
    fn read(tables: &Tables, at: u64, names_left: &mut u64) -> Result<(Self, u64)> {
        let entry: [u8; FIXED as usize] = tables.bytes(at)?;
        let [
            o0,
            o1,
            o2,
            o3,
            o4,
            o5,
            o6,
            o7,
            s0,
            s1,
            s2,
            s3,
            f0,
            f1,
            f2,
            f3,
            kind,
            granularity_bits,
            n0,
            n1,
            extra @ ..,
        ] = entry;
        let flags = u32::from_be_bytes([f0, f1, f2, f3]);
        let extra_length = u64::from(u32::from_be_bytes(extra));
        let name_length = u64::from(u16::from_be_bytes([n0, n1]));
        let granularity = 1_u64.checked_shl(granularity_bits.into()).ok_or_else(|| {
            Error::damaged(format!(
                "the bitmap directory says at byte {at} that blocks have 2^{granularity_bits} bytes"
            ))
        })?;
        let name = text(tables, at.saturating_add(FIXED).saturating_add(extra_length), name_length, names_left)?;
        let entry = Self {
            about: Bitmap { name, granularity, in_use: flags & flag::IN_USE != 0 },
            table: Table {
                offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
                entries: u32::from_be_bytes([s0, s1, s2, s3]),
            },
            granularity_bits,
            kind,
            flags,
            extra_length,
        };
        Ok((entry, FIXED + extra_length + name_length))
    }

    /// Refuse what cannot be relied on or is not known.
    fn check_usable(&self) -> Result<()> {
        let name = &self.about.name;
        if self.about.in_use {
            return Err(Error::damaged(format!(
                "the bitmap {name:?} was not stored properly and tells nothing: read the whole disk instead"
            )));
        }
        let extra_matters = self.extra_length != 0 && self.flags & flag::EXTRA_DATA_COMPATIBLE == 0;
        if self.kind != DIRTY_TRACKING || self.flags & !flag::KNOWN != 0 || extra_matters {
            return Err(Error::unsupported(format!("the bitmap {name:?} is of a kind that is not known here")));
        }
        if !GRANULARITY_BITS.contains(&self.granularity_bits) {
            let granularity = self.about.granularity;
            return Err(Error::unsupported(format!("the bitmap {name:?} has blocks of {granularity} bytes")));
        }
        Ok(())
    }
}

/// The ranges of a disk that are set in one of its bitmaps: byte offsets in ascending order, joined, none empty.
///
/// An error ends it. It holds a few pages of the bitmap, however large that is.
pub struct DirtyRanges {
    tables: Tables,
    geometry: Geometry,
    /// Byte offset of the bitmap table.
    table: u64,
    granularity_bits: u8,
    /// Bytes of the disk.
    size: u64,
    /// Bits of the bitmap.
    bits: u64,
    /// The next one.
    bit: u64,
}

impl DirtyRanges {
    pub(super) fn new(tables: Tables, header: &Header, entry: &Entry) -> Result<Self> {
        entry.check_usable()?;
        let geometry = header.geometry;
        let name = &entry.about.name;
        geometry.check_aligned(entry.table.offset, "a bitmap table")?;
        let bits = header.size.div_ceil(entry.about.granularity);
        let bytes = bits.div_ceil(8);
        if bytes > BITMAP_MAX {
            return Err(Error::new(ErrorKind::Limit, format!("the bitmap {name:?} is larger than {BITMAP_MAX} bytes")));
        }
        if bytes.div_ceil(geometry.cluster_size()) != u64::from(entry.table.entries) {
            return Err(Error::damaged(format!(
                "the table of the bitmap {name:?} has {} entries, which does not fit the size of the disk",
                entry.table.entries
            )));
        }
        let table = entry.table.offset;
        Ok(Self { tables, geometry, table, granularity_bits: entry.granularity_bits, size: header.size, bits, bit: 0 })
    }

    /// Whether the next bit is set, and how many from it on are known to be like it.
    fn like(&self) -> Result<(bool, u64)> {
        let per_cluster = self.geometry.cluster_size() * 8;
        let (cluster, skip) = (self.bit / per_cluster, self.bit % per_cluster);
        let at = self.table.saturating_add(cluster * 8);
        let entry = self.tables.be64(at)?;
        let offset = entry & OFFSET;
        if entry & !OFFSET > 1
            || (offset != 0 && entry & 1 == 1)
            || !offset.is_multiple_of(self.geometry.cluster_size())
        {
            return Err(Error::damaged(format!("the entry at byte {at} of a bitmap table is impossible: {entry:#x}")));
        }
        if offset == 0 {
            return Ok((entry == 1, per_cluster - skip));
        }
        let word = self.tables.le64(offset + skip / 64 * 8)?;
        let shift = skip % 64;
        let word = word >> shift;
        let set = word & 1 == 1;
        let like = if set { word.trailing_ones() } else { word.trailing_zeros() };
        Ok((set, u64::from(like).min(64 - shift)))
    }

    /// Pass bits while they are `set`.
    fn pass(&mut self, set: bool) -> Result<()> {
        while self.bit < self.bits {
            let (is, count) = self.like()?;
            if is != set {
                break;
            }
            self.bit = self.bit.saturating_add(count).min(self.bits);
        }
        Ok(())
    }

    fn next_range(&mut self) -> Result<Option<Range<u64>>> {
        self.pass(false)?;
        let start = self.bit;
        self.pass(true)?;
        let end = (self.bit << self.granularity_bits).min(self.size);
        Ok((start < self.bit).then_some(start << self.granularity_bits..end))
    }
}

impl Iterator for DirtyRanges {
    type Item = Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_range().transpose();
        if matches!(next, Some(Err(_))) {
            self.bit = self.bits;
        }
        next
    }
}

impl FusedIterator for DirtyRanges {}
