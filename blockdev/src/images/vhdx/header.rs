//! The header section: the first MiB, with two headers and two region tables (MS-VHDX 2.2).

use std::ops::Range;

use super::{
    guid::Guid,
    ids::{BAT, HEADER_LEN, HEADERS, METADATA, MIB, REGION_TABLE_LEN, REGION_TABLES, crc32c},
};
use crate::{Error, ReadAt, Result, images::blocks::field};

const REGIONS_MAX: u32 = 2047;
/// Where the checksum of headers, region tables and log entries is.
pub const CHECKSUM: Range<usize> = 4..8;

/// The header that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Changes whenever the disk's content does: what a child names.
    pub data_write: Guid,
    /// Nil if the log is empty.
    pub log_guid: Guid,
    /// Where the log is.
    pub log_at: u64,
    /// Its length in bytes.
    pub log_len: u64,
}

impl Header {
    /// Of the two headers the valid one with the higher sequence number (2.2.2).
    pub fn read(file: &dyn ReadAt) -> Result<Self> {
        let mut best: Option<(u64, Self)> = None;
        for at in HEADERS {
            let Some(bytes) = checked::<HEADER_LEN>(file, at, b"head")? else { continue };
            let sequence = u64::from_le_bytes(field(&bytes, 8));
            let header = Self::parse(&bytes)?;
            match &best {
                Some((other, _)) if *other > sequence => {}
                Some((other, same)) if *other == sequence && *same != header => {
                    return Err(Error::damaged(
                        "the two headers contradict each other: take another copy of the image",
                    ));
                }
                _ => best = Some((sequence, header)),
            }
        }
        best.map(|(_, header)| header).ok_or_else(|| {
            Error::damaged("neither of the headers at 64 and 128 KiB has its checksum: take another copy of the image")
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let version = u16::from_le_bytes(field(bytes, 66));
        let log_version = u16::from_le_bytes(field(bytes, 64));
        if version != 1 || log_version != 0 {
            return Err(Error::unsupported(format!(
                "VHDX version {version} with log version {log_version} is not known"
            )));
        }
        Ok(Self {
            data_write: Guid(field(bytes, 32)),
            log_guid: Guid(field(bytes, 48)),
            log_at: u64::from_le_bytes(field(bytes, 72)),
            log_len: u32::from_le_bytes(field(bytes, 68)).into(),
        })
    }
}

/// Where the tables are (2.2.3).
pub struct Regions {
    /// The block allocation table.
    pub bat: Range<u64>,
    /// The metadata.
    pub metadata: Range<u64>,
}

impl Regions {
    /// Of the two region tables the first that is valid.
    pub fn read(file: &dyn ReadAt) -> Result<Self> {
        for at in REGION_TABLES {
            if let Some(bytes) = checked::<REGION_TABLE_LEN>(file, at, b"regi")? {
                return Self::parse(&bytes);
            }
        }
        Err(Error::damaged(
            "neither region table, at 192 and 256 KiB, has its checksum: take another copy of the image",
        ))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let count = u32::from_le_bytes(field(bytes, 8));
        if count > REGIONS_MAX {
            return Err(Error::damaged(format!("the region table tells of {count} regions")));
        }
        let (mut bat, mut metadata) = (None, None);
        for entry in 0..count as usize {
            let at = 16 + 32 * entry;
            let guid = Guid(field(bytes, at));
            let start = u64::from_le_bytes(field(bytes, at + 16));
            let len = u64::from(u32::from_le_bytes(field(bytes, at + 24)));
            let place = match guid {
                BAT => &mut bat,
                METADATA => &mut metadata,
                _ if u32::from_le_bytes(field(bytes, at + 28)) & 1 == 1 => {
                    return Err(Error::unsupported(format!("the image needs region {guid}, which is not known")));
                }
                _ => continue,
            };
            let range = aligned(start, len).ok_or_else(|| {
                Error::damaged(format!("region {guid} lies at byte {start} with {len} bytes, which are no whole MiB"))
            })?;
            if place.replace(range).is_some() {
                return Err(Error::damaged(format!("the region table has region {guid} twice")));
            }
        }
        match (bat, metadata) {
            (Some(bat), Some(metadata)) => Ok(Self { bat, metadata }),
            _ => Err(Error::damaged("the region table lacks the block allocation table or the metadata")),
        }
    }
}

/// `start..start + len` if both are whole MiB behind the header section.
pub fn aligned(start: u64, len: u64) -> Option<Range<u64>> {
    let whole = start >= MIB && len > 0 && start.is_multiple_of(MIB) && len.is_multiple_of(MIB);
    start.checked_add(len).filter(|_| whole).map(|end| start..end)
}

/// The structure of `N` bytes at `at`, if it has its signature and its checksum.
fn checked<const N: usize>(file: &dyn ReadAt, at: u64, signature: &[u8; 4]) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; N];
    if file.read_at(&mut bytes, at)? < N || !bytes.starts_with(signature) {
        return Ok(None);
    }
    let stored = u32::from_le_bytes(field(&bytes, CHECKSUM.start));
    if let Some(own) = bytes.get_mut(CHECKSUM) {
        own.fill(0);
    }
    Ok((crc32c(&[&bytes]) == stored).then_some(bytes))
}
