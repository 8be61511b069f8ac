//! Records: what was written to the log at once. A header of one to eight blocks, and up to 256 KiB of data.
//!
//! Each block of the log begins with its cycle, so that a block that was not written can be told. The bytes that were
//! there are kept in the header, 64 blocks' for each of its blocks. ("Log Records".)

use blockdev::{
    Error, ReadAt, Result,
    fields::{be32, be64, le32, slice},
};
use crc_fast::{CrcAlgorithm, Digest};

use super::physical::{BLOCK, Physical};
use crate::xfs::superblock::Superblock;

/// What a record begins with.
pub const MAGIC: u32 = 0xfeed_babe;

/// Data for which one block of header is enough.
const DATA_A_HEADER: usize = 32 << 10;

/// The most data of a record.
const DATA_MAX: usize = 256 << 10;

/// Blocks of the largest record.
pub const BLOCKS_MAX: u64 = (DATA_MAX / BLOCK + DATA_MAX / DATA_A_HEADER) as u64;

/// Data words that one block of header keeps.
const KEPT: usize = DATA_A_HEADER / BLOCK;

/// Little-endian, as Linux writes it on most machines.
const FORMAT_LITTLE_ENDIAN: u32 = 1;

/// Bytes of the header that count for the checksum: x86-64 pads the structure, i386 did not.
const SUMMED: [usize; 2] = [328, 324];
/// The same of the further blocks of the header.
const SUMMED_FURTHER: usize = 260;
const SUM: usize = 32;

/// A record's header.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it begins.
    pub block: u64,
    /// Its sequence number.
    pub lsn: u64,
    /// The oldest change that was not yet in its place when it was written.
    pub tail: u64,
    /// Operations in it.
    pub operations: u32,
    /// Blocks of the header.
    header_blocks: usize,
    /// Bytes of data.
    len: usize,
}

impl Record {
    /// That at block `block`.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn at(sb: &Superblock, log: &Physical<'_, impl ReadAt + ?Sized>, block: u64) -> Result<Self> {
        let header = log.read(block, 1)?;
        let wrong = |what: &str| Error::damaged(format!("the record at its block {block} {what}"));
        if be32(&header, 0) != MAGIC {
            return Err(wrong("is none"));
        }
        let (version, len, size) = (be32(&header, 8), be32(&header, 12) as usize, be32(&header, 320) as usize);
        let (lsn, tail) = (be64(&header, 16), be64(&header, 24));
        if !(1..=3).contains(&version) || len > DATA_MAX || size > DATA_MAX {
            return Err(wrong(&format!("has version {version} and {len} bytes of at most {size}")));
        }
        if lsn & u64::from(u32::MAX) != block || lsn >> 32 != u64::from(be32(&header, 4)) {
            return Err(wrong("says that it lies elsewhere"));
        }
        if tail & u64::from(u32::MAX) >= log.blocks {
            return Err(wrong("says that the log begins behind its end"));
        }
        if slice(&header, 304, 16) != sb.uuid {
            return Err(wrong("belongs to another filesystem"));
        }
        if be32(&header, 300) != FORMAT_LITTLE_ENDIAN {
            return Err(Error::unsupported("it was written by a machine of another byte order"));
        }
        let header_blocks = if version & 2 != 0 { size.div_ceil(DATA_A_HEADER).max(1) } else { 1 };
        Ok(Self { block, lsn, tail, operations: be32(&header, 40), header_blocks, len })
    }

    /// Blocks of header and data.
    pub const fn blocks(&self) -> u64 {
        (self.header_blocks + self.len.div_ceil(BLOCK)) as u64
    }

    /// Its data, with the bytes that the cycles took the place of.
    ///
    /// # Errors
    ///
    /// When the checksum does not match, or it cannot be read.
    pub fn data(&self, log: &Physical<'_, impl ReadAt + ?Sized>) -> Result<Vec<u8>> {
        let mut bytes = log.read(self.block, self.blocks() as usize)?;
        let mut data = bytes.split_off(self.header_blocks * BLOCK);
        data.truncate(self.len);
        let stored = le32(&bytes, SUM);
        // A log of old has no checksums.
        if stored != 0 && !SUMMED.iter().any(|len| sum(&bytes, *len, &data) == stored) && !cfg!(fuzzing) {
            return Err(Error::damaged(format!("the record at its block {} does not match its checksum", self.block)));
        }
        let mut headers = bytes.chunks(BLOCK).zip([44].into_iter().chain(std::iter::repeat(4)));
        for part in data.chunks_mut(KEPT * BLOCK) {
            let Some((header, kept)) = headers.next() else {
                return Err(Error::damaged(format!("the record at its block {} has no room for its data", self.block)));
            };
            for (n, block) in part.chunks_mut(BLOCK).enumerate() {
                if let (Some(word), Some(bytes)) = (block.first_chunk_mut::<4>(), header.get(kept + n * 4..)) {
                    *word = bytes.first_chunk().copied().unwrap_or_default();
                }
            }
        }
        Ok(data)
    }

    /// Whether it says that the volume was unmounted. The data is to be `data`.
    pub fn is_unmount(&self, data: &[u8]) -> bool {
        const UNMOUNT: u8 = 0x20;
        self.operations == 1 && data.get(9).is_some_and(|flags| flags & UNMOUNT != 0)
    }
}

/// The checksum over `len` bytes of the header, its further blocks as far as they are used, and the data.
fn sum(header: &[u8], len: usize, data: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(slice(header, 0, SUM));
    digest.update(&[0; 4]);
    digest.update(slice(header, SUM + 4, len - SUM - 4));
    for n in 1..data.len().div_ceil(DATA_A_HEADER) {
        digest.update(slice(header, n * BLOCK, SUMMED_FURTHER));
    }
    digest.update(data);
    digest.finalize() as u32
}
