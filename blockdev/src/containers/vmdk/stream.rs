//! streamOptimized: what VMware's tools and OVF packages are made of, of a size that is known before.
//!
//! A grain is packed, and what it packs to would only be known after packing it. So grains are packed as "stored"
//! deflate blocks (RFC 1951, section 3.2.4), which are a little longer than their data, always by as much: every grain
//! has 129 sectors. After the grains of each grain table comes the table; after all, the directory and the header once
//! more, with the place of the directory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use libdeflater::Adler32;

use super::{DESCRIPTOR_AT, DESCRIPTOR_SECTORS, GRAIN, GRAIN_SECTORS, Header, SECTOR, TABLE_GRAINS, TABLE_SECTORS};
use crate::{
    BlockDevice, Error, Extent, ExtentKind, MappedRun, ReadAt, Result,
    containers::{
        allocation::Allocation,
        identity::Identity,
        put,
        sections::{Sections, readable},
        tables::{Entries, Table, UnitEntries, fits_u32},
        units::Source,
    },
};

/// Where the grains begin.
const BODY_AT: u64 = 128;
/// Sectors of a packed grain with its marker.
const PACKED_SECTORS: u64 = GRAIN_SECTORS + 1;
const PACKED_LEN: usize = (PACKED_SECTORS * SECTOR) as usize;
/// Sectors of a grain table with its marker.
const TRAILER_SECTORS: u64 = TABLE_SECTORS + 1;

const GRAIN_LEN: usize = GRAIN as usize;
/// The most bytes of one stored block: a grain is two, the second one byte long.
const FIRST_LEN: usize = 65535;
// Places in a packed grain: the marker, the zlib header and the head of the first block, its data; the head of the
// second block and the last byte; the checksum.
const FIRST_AT: usize = 12 + 2 + 5;
const SECOND_HEAD_AT: usize = FIRST_AT + FIRST_LEN;
const LAST_AT: usize = SECOND_HEAD_AT + SECOND_HEAD.len();
const SUM_AT: usize = LAST_AT + 1;
const SUM_END: usize = SUM_AT + 4;

/// zlib without packing; then a block that is stored and not the last: length and its complement.
const FIRST_HEAD: [u8; 7] = [0x78, 0x01, 0, 0xff, 0xff, 0, 0];
/// A block that is stored and the last.
const SECOND_HEAD: [u8; 5] = [1, 1, 0, 0xfe, 0xff];

// Kinds of markers.
const GRAIN_TABLE: u32 = 1;
const GRAIN_DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;

/// Grains whose checksums are half done that are remembered: one for each reader that goes through the file.
const HALF_DONE_MAX: usize = 32;

/// `disk` as a streamOptimized VMDK file called `name`.
///
/// # Errors
///
/// When the disk cannot tell its extents, or stores more than nearly 2 TiB: places are 32 bits of sectors.
pub fn open(name: &str, disk: &Arc<dyn BlockDevice>, identity: &Identity) -> Result<Sections> {
    let size = super::size_of_disk(disk)?;
    let grains = Arc::new(Allocation::of(disk.as_ref(), GRAIN)?);
    let tables = Arc::new(grains.grouped(TABLE_GRAINS));
    let body = Body {
        source: Source::new(Arc::clone(disk)),
        grains: Arc::clone(&grains),
        tables: Arc::clone(&tables),
        half_done: Mutex::default(),
    };
    let body_end = BODY_AT + body.group(tables.total());
    let directory_entries = size.div_ceil(GRAIN * TABLE_GRAINS);
    let directory_sectors = (directory_entries * 4).div_ceil(SECTOR);
    let directory_at = body_end + 1;
    let footer_marker_at = directory_at + directory_sectors;
    fits_u32(footer_marker_at, "a streamOptimized VMDK file (2 TiB)")?;

    let mut header = Header {
        version: 3,
        // The newline test is valid; grains are packed; there are markers.
        flags: 1 | 0x1_0000 | 0x2_0000,
        capacity: size / SECTOR,
        redundant_directory_at: 0,
        // The footer says.
        directory_at: u64::MAX,
        overhead: BODY_AT,
        compression: 1,
    };
    let mut file = Sections::new();
    file.put(0, header.bytes())?;
    let descriptor = super::descriptor("streamOptimized", "SPARSE", name, None, size, identity)?;
    debug_assert!(descriptor.len() as u64 <= DESCRIPTOR_SECTORS * SECTOR);
    file.put(DESCRIPTOR_AT * SECTOR, descriptor)?;
    file.put(BODY_AT * SECTOR, body)?;
    file.put(body_end * SECTOR, marker(directory_sectors, GRAIN_DIRECTORY))?;
    let table_of = Directory { grains, tables: Arc::clone(&tables) };
    let stored = move |rank| table_of.entry(rank).to_le_bytes();
    let directory = UnitEntries { allocation: tables, count: directory_entries, absent: [0; 4], stored };
    file.put(directory_at * SECTOR, Table(directory))?;
    file.put(footer_marker_at * SECTOR, marker(1, FOOTER))?;
    header.directory_at = directory_at;
    file.put((footer_marker_at + 1) * SECTOR, header.bytes())?;
    // The marker of the end of the stream is all zeros.
    Ok(file.ending_at((footer_marker_at + 3) * SECTOR))
}

fn marker(sectors: u64, kind: u32) -> Vec<u8> {
    let mut marker = vec![0; SECTOR as usize];
    put(&mut marker, 0, &sectors.to_le_bytes());
    put(&mut marker, 12, &kind.to_le_bytes());
    marker
}

/// Sectors of the body before the grains of the group whose first grain has rank `grain`, groups being counted by
/// their ranks too.
const fn group_at(group: u64, grain: u64) -> u64 {
    grain * PACKED_SECTORS + group * TRAILER_SECTORS
}

struct Directory {
    grains: Arc<Allocation>,
    tables: Arc<Allocation>,
}

impl Directory {
    /// The sector of the grain table of rank `rank`, which exists.
    fn entry(&self, rank: u64) -> u32 {
        let table = self.tables.nth(rank).unwrap_or(0);
        let end = self.grains.rank((table + 1) * TABLE_GRAINS);
        // Behind its marker; `open` has checked that all places fit.
        (BODY_AT + group_at(rank, end) + 1) as u32
    }
}

/// The grains, and after those of each table the table.
struct Body {
    source: Source,
    grains: Arc<Allocation>,
    tables: Arc<Allocation>,
    half_done: Mutex<VecDeque<HalfDone>>,
}

/// The checksum of the first `len` bytes of a grain.
#[derive(Clone, Copy)]
struct HalfDone {
    grain: u64,
    len: usize,
    sum: u32,
}

impl Body {
    /// Sectors before group `rank`, or, behind the last, of all groups.
    fn group(&self, rank: u64) -> u64 {
        let first = self.tables.nth(rank).map_or(self.grains.total(), |table| self.grains.rank(table * TABLE_GRAINS));
        group_at(rank, first)
    }

    /// The last group that begins at or before `sector`.
    fn group_of(&self, sector: u64) -> u64 {
        let (mut low, mut high) = (0, self.tables.total());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.group(middle) <= sector { low = middle } else { high = middle }
        }
        low
    }

    /// The marker and the grain table of group `group`, that of the grains of table `table`.
    fn trailer(&self, group: u64, table: u64) -> Vec<u8> {
        let mut trailer = marker(TABLE_SECTORS, GRAIN_TABLE);
        let stored = |rank: u64| ((BODY_AT + group_at(group, rank)) as u32).to_le_bytes();
        let first = table * TABLE_GRAINS;
        let allocation = Arc::clone(&self.grains);
        let entries = UnitEntries { allocation, count: first + TABLE_GRAINS, absent: [0; 4], stored };
        let at = trailer.len();
        trailer.resize((TRAILER_SECTORS * SECTOR) as usize, 0);
        entries.fill(first, trailer.get_mut(at..).unwrap_or_default());
        trailer
    }

    /// Fill `dest` with the bytes of the packed grain `grain` from its byte `from` on.
    fn grain(&self, grain: u64, dest: &mut [u8], from: usize) -> Result<()> {
        let end = from + dest.len();
        let at = grain * GRAIN;
        // Of the data, what is wanted. The last byte is behind a second head: it is read with the others and then
        // moved, as long as there is room for it.
        let (start, stop) = (from.saturating_sub(FIRST_AT).min(GRAIN_LEN), data_before(end));
        let mut summed = None;
        if from <= SECOND_HEAD_AT && end >= SUM_AT {
            let data = dest.get_mut(start + FIRST_AT - from..GRAIN_LEN + FIRST_AT - from).unwrap_or_default();
            self.source.read(data, at + start as u64)?;
            summed = Some(self.sum(grain, data, start)?);
            let last = data.last().copied().unwrap_or(0);
            overlay(dest, from, LAST_AT, &[last]);
        } else if start < stop {
            let first_stop = stop.min(FIRST_LEN);
            if start < first_stop {
                let data = dest.get_mut(start + FIRST_AT - from..first_stop + FIRST_AT - from).unwrap_or_default();
                self.source.read(data, at + start as u64)?;
                self.sum(grain, data, start)?;
            }
            if stop == GRAIN_LEN {
                let mut last = [0];
                self.source.read(&mut last, at + FIRST_LEN as u64)?;
                summed = Some(self.sum(grain, &last, FIRST_LEN)?);
                overlay(dest, from, LAST_AT, &last);
            }
        }
        let mut head = [0; FIRST_AT];
        put(&mut head, 0, &(grain * GRAIN_SECTORS).to_le_bytes());
        put(&mut head, 8, &((SUM_END - 12) as u32).to_le_bytes());
        put(&mut head, 12, &FIRST_HEAD);
        overlay(dest, from, 0, &head);
        overlay(dest, from, SECOND_HEAD_AT, &SECOND_HEAD);
        if from < SUM_END && end > SUM_AT {
            let sum = match summed {
                Some(sum) => sum,
                None => self.sum(grain, &[], GRAIN_LEN)?,
            };
            overlay(dest, from, SUM_AT, &sum.to_be_bytes());
        }
        overlay(dest, from, SUM_END, &[0; PACKED_LEN - SUM_END]);
        Ok(())
    }

    /// The checksum of a grain up to the end of `data`, which begins at its byte `start`. The data before is only
    /// read again where no reader has just read it; and where the grain is not at its end nobody wants it yet.
    fn sum(&self, grain: u64, data: &[u8], start: usize) -> Result<u32> {
        let len = start + data.len();
        let mut before = if start == 0 { Some(1) } else { self.remembered(grain, start) };
        if before.is_none() && len == GRAIN_LEN {
            let mut bytes = vec![0; start];
            self.source.read(&mut bytes, grain * GRAIN)?;
            before = Some(libdeflater::adler32(&bytes));
        }
        let Some(before) = before else { return Ok(0) };
        let mut adler = Adler32::with_initial(before);
        adler.update(data);
        if len < GRAIN_LEN || start == GRAIN_LEN || start == FIRST_LEN {
            self.remember(HalfDone { grain, len, sum: adler.sum() });
        }
        Ok(adler.sum())
    }

    fn remembered(&self, grain: u64, len: usize) -> Option<u32> {
        let half_done = self.half_done.lock().unwrap_or_else(PoisonError::into_inner);
        half_done.iter().find(|half| half.grain == grain && half.len == len).map(|half| half.sum)
    }

    fn remember(&self, half: HalfDone) {
        let mut half_done = self.half_done.lock().unwrap_or_else(PoisonError::into_inner);
        if half_done.len() >= HALF_DONE_MAX {
            half_done.pop_front();
        }
        half_done.push_back(half);
    }
}

/// Bytes of a grain's data that are before byte `end` of the packed grain.
const fn data_before(end: usize) -> usize {
    if end > LAST_AT {
        GRAIN_LEN
    } else if end >= SECOND_HEAD_AT {
        FIRST_LEN
    } else {
        end.saturating_sub(FIRST_AT)
    }
}

/// Put the part of `bytes`, which are at `at` of something, into `dest`, which is it from byte `from` on.
fn overlay(dest: &mut [u8], from: usize, at: usize, bytes: &[u8]) {
    let bytes = bytes.get(from.saturating_sub(at)..).unwrap_or_default();
    let dest = dest.get_mut(at.saturating_sub(from)..).unwrap_or_default();
    let n = bytes.len().min(dest.len());
    if let (Some(dest), Some(bytes)) = (dest.get_mut(..n), bytes.get(..n)) {
        dest.copy_from_slice(bytes);
    }
}

impl ReadAt for Body {
    fn size(&self) -> u64 {
        self.group(self.tables.total()) * SECTOR
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = readable(buf, offset, self.size());
        let mut rest = buf.get_mut(..wanted).unwrap_or_default();
        let mut group = self.group_of(offset / SECTOR);
        let mut within = offset - self.group(group) * SECTOR;
        while !rest.is_empty() {
            let table =
                self.tables.nth(group).ok_or_else(|| Error::damaged("the image file has more tables than the disk"))?;
            let grains = table * TABLE_GRAINS..(table + 1) * TABLE_GRAINS;
            let first = self.grains.rank(grains.start);
            // The grain that it begins in, if it is not behind all.
            let skip = within / PACKED_LEN as u64;
            let mut from = (within % PACKED_LEN as u64) as usize;
            let count = self.grains.rank(grains.end) - first;
            if skip < count {
                let stored = self.grains.stored_from(first + skip);
                for grain in stored.flat_map(|(units, _)| units).take((count - skip) as usize) {
                    let (dest, tail) = rest.split_at_mut(rest.len().min(PACKED_LEN - from));
                    self.grain(grain, dest, from)?;
                    (rest, from) = (tail, 0);
                    if rest.is_empty() {
                        return Ok(wanted);
                    }
                }
                within = count * PACKED_LEN as u64;
            }
            let trailer = self.trailer(group, table);
            let bytes = trailer.get((within - count * PACKED_LEN as u64) as usize..).unwrap_or_default();
            let (dest, tail) = rest.split_at_mut(rest.len().min(bytes.len()));
            dest.copy_from_slice(bytes.get(..dest.len()).unwrap_or_default());
            rest = tail;
            group += 1;
            within = 0;
        }
        Ok(wanted)
    }

    /// Grains lie so that nothing in them is aligned: there are no holes.
    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let size = self.size();
        Ok((offset < size).then_some(Extent { range: offset..size, kind: ExtentKind::Data }))
    }

    /// Whoever reads a grain has its checksum worked out on the way.
    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}
