//! Chunks: where the logical addresses of a filesystem are on its devices, and in how many ways they can be read.
//!
//! A chunk is a range of logical addresses with a RAID profile. All profiles are one of two: *columns* of 64 KiB stripes
//! that take turns, each on one or more devices (single, DUP, RAID 0, 1, 1C3, 1C4, 10), or data stripes with one or two
//! parity stripes whose devices rotate (RAID 5, 6).

use std::collections::BTreeMap;

use blockdev::{
    Error, ErrorKind, Result,
    fields::{le16, le64, slice},
};

use super::{
    key::{Key, kind},
    members::Members,
    superblock::uuid,
};

/// Bytes of a stripe (`BTRFS_STRIPE_LEN`); no other length was ever written.
pub const STRIPE: u64 = 64 << 10;
/// Bytes of a chunk item before its stripes, and of one stripe.
const HEADER: usize = 48;
const STRIPE_ITEM: usize = 32;
/// Bounds for what a chunk tree can claim: 256 TiB in chunks of 1 GiB.
const CHUNKS_MAX: usize = 1 << 18;
const STRIPES_MAX: usize = 1 << 20;

/// Profiles (`BTRFS_BLOCK_GROUP_*`).
const RAID0: u64 = 1 << 3;
const RAID1: u64 = 1 << 4;
const DUP: u64 = 1 << 5;
const RAID10: u64 = 1 << 6;
const RAID5: u64 = 1 << 7;
const RAID6: u64 = 1 << 8;
const RAID1C3: u64 = 1 << 9;
const RAID1C4: u64 = 1 << 10;
const DATA: u64 = 1;
/// Data, system, metadata, and the profiles.
const KNOWN: u64 = 7 | RAID0 | RAID1 | DUP | RAID10 | RAID5 | RAID6 | RAID1C3 | RAID1C4;
const PROFILES: u64 = KNOWN & !7;

/// A range of a device.
#[derive(Debug, Clone, Copy)]
pub struct Stripe {
    /// Which member; `None` when it is missing.
    pub member: Option<u32>,
    /// Number of the device.
    pub device: u64,
    /// Where the range begins.
    pub offset: u64,
}

/// How stripes make up a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Columns that take turns, of so many copies each.
    Columns { copies: usize },
    /// So many of the stripes of each row are parity.
    Parity { parities: usize },
}

/// A range of logical addresses.
#[derive(Debug)]
pub struct Chunk {
    pub start: u64,
    pub len: u64,
    pub layout: Layout,
    pub stripes: Box<[Stripe]>,
    is_data: bool,
}

impl Chunk {
    fn parse(start: u64, item: &[u8], members: &Members) -> Result<Self> {
        let wrong = |what: String| Error::damaged(format!("the chunk at logical address {start} {what}"));
        let (len, stripe_len, flags) = (le64(item, 0), le64(item, 16), le64(item, 24));
        let (count, sub) = (usize::from(le16(item, 44)), usize::from(le16(item, 46)));
        let ends = |stripe: &Stripe| stripe.offset.checked_add(len).is_some();
        if flags & !KNOWN != 0 || (flags & PROFILES).count_ones() > 1 {
            return Err(Error::unsupported(format!("the profile {flags:#x} of the chunk at {start} is not known")));
        }
        if len == 0 || start.checked_add(len).is_none() || stripe_len != STRIPE {
            return Err(wrong(format!("has {len} bytes in stripes of {stripe_len}")));
        }
        let layout = match flags & PROFILES {
            RAID0 => Layout::Columns { copies: 1 },
            RAID10 => Layout::Columns { copies: sub },
            RAID5 => Layout::Parity { parities: 1 },
            RAID6 => Layout::Parity { parities: 2 },
            _ => Layout::Columns { copies: count },
        };
        let is_possible = match layout {
            Layout::Columns { copies } => copies > 0 && count > 0 && count.is_multiple_of(copies),
            Layout::Parity { parities } => count > parities && count <= 255,
        };
        if !is_possible || item.len() < HEADER + count * STRIPE_ITEM {
            return Err(wrong(format!("has {count} stripes, which its profile {flags:#x} cannot have")));
        }
        let stripes = item.get(HEADER..).unwrap_or_default().chunks_exact(STRIPE_ITEM).take(count);
        let mut stripes: Vec<_> = stripes
            .map(|s| {
                let device = le64(s, 0);
                Stripe { member: members.position(device, &uuid(s, 16)), device, offset: le64(s, 8) }
            })
            .collect();
        if !stripes.iter().all(ends) {
            return Err(wrong("lies behind the end of its device".to_owned()));
        }
        if let Layout::Columns { copies } = layout {
            // The order of copies says nothing: first those that are up to date, last those that are missing.
            let rank = |s: &Stripe| s.member.and_then(|m| members.get(m)).map_or(2, |m| u8::from(m.is_stale));
            stripes.chunks_mut(copies).for_each(|column| column.sort_by_key(rank));
        }
        Ok(Self { start, len, layout, stripes: stripes.into(), is_data: flags & DATA != 0 })
    }

    /// Bytes from `at` (counted from the start of the chunk) to the end of the stripe, or of the chunk.
    pub fn left(&self, at: u64) -> u64 {
        let in_chunk = self.len.saturating_sub(at);
        match self.layout {
            Layout::Columns { copies } if copies == self.stripes.len() => in_chunk,
            _ => in_chunk.min(STRIPE - at % STRIPE),
        }
    }

    /// In how many ways each byte can be read, if all devices are there.
    pub fn ways(&self) -> usize {
        match self.layout {
            Layout::Columns { copies } => copies,
            Layout::Parity { parities: 1 } => 2,
            // As it is, by P, by Q, and by both without one of the other data stripes.
            Layout::Parity { parities } => 3 + (self.stripes.len() - parities).saturating_sub(1),
        }
    }

    /// Whether all of it can be read with the members at hand.
    fn is_readable(&self) -> bool {
        let missing = |stripes: &[Stripe]| stripes.iter().filter(|s| s.member.is_none()).count();
        match self.layout {
            Layout::Columns { copies } => self.stripes.chunks(copies).all(|column| missing(column) < copies),
            Layout::Parity { parities } => missing(&self.stripes) <= parities,
        }
    }
}

/// All chunks, by logical address.
#[derive(Default)]
pub struct Chunks {
    by_start: BTreeMap<u64, Chunk>,
    stripes: usize,
}

impl Chunks {
    /// Those of the superblock: keys, each with its item.
    pub fn of_system(mut bytes: &[u8], members: &Members) -> Result<Self> {
        let mut chunks = Self::default();
        while !bytes.is_empty() {
            let key = Key::read(bytes, 0);
            let len = HEADER + usize::from(le16(bytes, Key::LEN + 44)) * STRIPE_ITEM;
            if key.kind != kind::CHUNK_ITEM || bytes.len() < Key::LEN + len {
                return Err(Error::damaged("the superblock of the btrfs has something else between its chunks"));
            }
            chunks.add(key.offset, slice(bytes, Key::LEN, len), members)?;
            bytes = bytes.get(Key::LEN + len..).unwrap_or_default();
        }
        Ok(chunks)
    }

    /// Adds the chunk `item` at `start`.
    pub fn add(&mut self, start: u64, item: &[u8], members: &Members) -> Result<()> {
        let chunk = Chunk::parse(start, item, members)?;
        self.stripes += chunk.stripes.len();
        if self.by_start.len() >= CHUNKS_MAX || self.stripes > STRIPES_MAX {
            return Err(Error::new(ErrorKind::Limit, format!("the btrfs has more than {CHUNKS_MAX} chunks")));
        }
        let end = start + chunk.len;
        let before = self.by_start.range(..end).next_back();
        if before.is_some_and(|(_, other)| other.start + other.len > start) {
            return Err(Error::damaged(format!("the chunk at logical address {start} overlaps with another")));
        }
        self.by_start.insert(start, chunk);
        Ok(())
    }

    /// The chunk that has `logical`.
    pub fn at(&self, logical: u64) -> Result<&Chunk> {
        let found = self.by_start.range(..=logical).next_back().map(|(_, chunk)| chunk);
        let found = found.filter(|chunk| logical - chunk.start < chunk.len);
        found.ok_or_else(|| Error::damaged(format!("logical address {logical} lies in no chunk")))
    }

    /// The end of the last one.
    pub fn end(&self) -> u64 {
        self.by_start.values().next_back().map_or(0, |chunk| chunk.start + chunk.len)
    }

    /// Bytes that cannot be read with the members at hand, and all bytes.
    pub fn unreadable(&self) -> (u64, u64) {
        self.by_start.values().fold((0, 0_u64), |(lost, all), chunk| {
            let lost_here = if chunk.is_readable() { 0 } else { chunk.len };
            (lost.saturating_add(lost_here), all.saturating_add(chunk.len))
        })
    }

    /// How many copies of data there are: of the profile that has the most.
    pub fn copies_of_data(&self) -> u64 {
        let copies = self.by_start.values().filter(|chunk| chunk.is_data).map(|chunk| match chunk.layout {
            Layout::Columns { copies } => copies as u64,
            Layout::Parity { .. } => 1,
        });
        copies.max().unwrap_or(1)
    }
}
