//! Volumes of which only the used space is encrypted so far: bitmaps tell which chunks are.
//!
//! "Encrypt on write": the header (`FVE-EOW`) has the size of a chunk and the places of bitmaps (`FVE-EOWBM`), each for a
//! region of the volume and with two records (`FVE-EOWBR`), of which the one with the higher number is valid.

use std::ops::Range;

use crc_fast::{CrcAlgorithm, checksum};

use crate::{
    BlockDevice, Error, Result,
    fields::{self, le16, le32, le64, slice},
};

/// Bytes of a header, and of a bitmap with its records, at most: a bit for each chunk of a region.
const HEADER_MAX: usize = 1 << 16;
const BITMAP_MAX: usize = 1 << 24;
/// Bitmaps of a volume, and ranges, of all bitmaps together.
const BITMAPS_MAX: usize = 64;
const RANGES_MAX: usize = 1 << 20;

/// What is encrypted of a volume.
#[derive(Debug, Default)]
pub struct UsedSpace {
    /// Ranges that are encrypted, ascending.
    pub encrypted: Vec<Range<u64>>,
    /// Where this is stored.
    pub reserved: Vec<Range<u64>>,
}

/// What is encrypted of the volume of `size` bytes on `device`; `places`: where the copies of the header are.
///
/// # Errors
///
/// `Damaged` when no header is whole, or a bitmap is not.
pub fn read(device: &dyn BlockDevice, places: &[u64], sector: u64, size: u64) -> Result<UsedSpace> {
    let (mut found, mut failed, mut reserved) = (None, None, Vec::new());
    for place in places {
        match Header::read(device, *place) {
            Ok(header) => {
                reserved.push(*place..place.saturating_add(header.len));
                found = found.or(Some(header));
            }
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    match found {
        Some(header) => header.map(device, reserved, sector, size),
        None => Err(failed.unwrap_or_else(|| Error::damaged("BitLocker names no map of what is encrypted"))),
    }
}

/// Whether `bytes` have the CRC-32 that is in them at `at`, reckoned with zeros in its place.
fn is_whole(bytes: &[u8], at: usize) -> bool {
    let mut bytes = bytes.to_vec();
    let stored = le32(&bytes, at);
    let Some(place) = bytes.get_mut(at..at + 4) else { return false };
    place.fill(0);
    checksum(CrcAlgorithm::Crc32IsoHdlc, &bytes) == u64::from(stored)
}

fn damaged(what: &str, at: u64) -> Error {
    Error::damaged(format!("BitLocker's map of what is encrypted, at byte {at}: {what}"))
}

/// A header.
struct Header {
    len: u64,
    /// Bytes of a chunk.
    chunk: u64,
    /// Bytes of the log beside each bitmap.
    log: u64,
    /// Where the bitmaps are.
    bitmaps: Vec<u64>,
}

impl Header {
    fn read(device: &dyn BlockDevice, at: u64) -> Result<Self> {
        let bytes = fields::read(device, at, HEADER_MAX)?;
        let (head, len) = (usize::from(le16(&bytes, 8)), usize::from(le16(&bytes, 10)));
        let whole = slice(&bytes, 0, len);
        if !bytes.starts_with(b"FVE-EOW\0") || head < 56 || len < head || !is_whole(whole, 36) {
            return Err(damaged("the header is not whole", at));
        }
        let bitmaps = whole.get(head..).unwrap_or_default().chunks_exact(8).map(|place| le64(place, 0));
        Ok(Self {
            len: len as u64,
            chunk: u64::from(le32(&bytes, 20)),
            log: u64::from(le32(&bytes, 24)),
            bitmaps: bitmaps.take(BITMAPS_MAX).collect(),
        })
    }

    fn map(&self, device: &dyn BlockDevice, reserved: Vec<Range<u64>>, sector: u64, size: u64) -> Result<UsedSpace> {
        let chunk = self.chunk;
        if chunk < sector || !chunk.is_multiple_of(sector) {
            return Err(Error::damaged(format!("BitLocker's map counts in chunks of {chunk} bytes")));
        }
        let mut map = UsedSpace { encrypted: Vec::new(), reserved };
        for place in &self.bitmaps {
            let bytes = fields::read(device, *place, BITMAP_MAX)?;
            let (region, region_len, log) = (le64(&bytes, 20), le64(&bytes, 28), le64(&bytes, 36));
            let records = [le32(&bytes, 44), le32(&bytes, 48)].map(|at| Record::of(&bytes, at as usize));
            let newest = records.into_iter().flatten().max_by_key(|record| record.number);
            let record = newest.filter(|_| bytes.starts_with(b"FVE-EOWBM\0"));
            let record = record.ok_or_else(|| damaged("no record is whole", *place))?;
            map.reserved.push(*place..place.saturating_add(u64::from(le32(&bytes, 12))));
            map.reserved.push(log..log.saturating_add(self.log));
            if !region.is_multiple_of(sector) || map.encrypted.last().is_some_and(|last| last.end > region) {
                return Err(damaged("regions are not one after another", *place));
            }
            map.add(&record, region..region.saturating_add(region_len).min(size), chunk);
            if map.encrypted.len() > RANGES_MAX {
                return Err(damaged("more ranges than can be kept", *place));
            }
        }
        Ok(map)
    }
}

impl UsedSpace {
    /// Adds what `record` says of `region`, in chunks of so many bytes.
    fn add(&mut self, record: &Record<'_>, region: Range<u64>, chunk: u64) {
        for (number, encrypted) in (0_u64..).zip(record.bits()) {
            let start = region.start.saturating_add(number.saturating_mul(chunk));
            if start >= region.end || self.encrypted.len() > RANGES_MAX {
                break;
            }
            let end = start.saturating_add(chunk).min(region.end);
            match self.encrypted.last_mut() {
                _ if !encrypted => {}
                Some(last) if last.end == start => last.end = end,
                _ => self.encrypted.push(start..end),
            }
        }
    }
}

/// A record of a bitmap.
struct Record<'a> {
    number: u64,
    bitmap: &'a [u8],
    len: usize,
}

impl<'a> Record<'a> {
    fn of(bytes: &'a [u8], at: usize) -> Option<Self> {
        let bytes = bytes.get(at..)?;
        let (head, len) = (usize::from(le16(bytes, 10)), le32(bytes, 12) as usize);
        let whole = bytes.get(..len).filter(|whole| whole.starts_with(b"FVE-EOWBR\0") && is_whole(whole, 32))?;
        Some(Self { number: le64(whole, 20), bitmap: whole.get(head..)?, len: le32(whole, 16) as usize })
    }

    fn bits(&self) -> impl Iterator<Item = bool> {
        self.bitmap.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 != 0)).take(self.len)
    }
}
