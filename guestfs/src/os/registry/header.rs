//! The base block: the first 4096 bytes of a hive, and the first 512 of a log.

use blockdev::{
    Error, ReadAt, Result,
    fields::{le32, read, slice},
};

/// Where the bins begin, in bytes.
pub const BINS: u64 = 4096;

/// Bytes of a base block that have a meaning.
pub const LEN: usize = 512;

/// The checksum and the bytes that it covers.
const CHECKSUM: usize = 508;

/// A hive's data, in bytes, are less than this.
const BINS_MAX: u32 = 0x8000_0000;

/// A base block.
#[derive(Debug, Clone)]
pub struct Header {
    /// Counted up before something is written ...
    pub primary: u32,
    /// ... and after: where they differ, the hive was not closed.
    pub secondary: u32,
    /// Minor version of the format; the major is 1.
    pub minor: u32,
    /// 0 a hive, 1 an old log, 2 a log of Windows 2000, 6 a log of Windows 8.1 and later.
    pub kind: u32,
    /// Where the topmost key is.
    pub root: u32,
    /// Bytes of all bins.
    pub bins: u32,
    /// Whether its checksum is right.
    pub is_sound: bool,
}

impl Header {
    /// That at the beginning of `file`.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be read.
    pub fn read(file: &(impl ReadAt + ?Sized)) -> Result<Self> {
        let block = read(file, 0, LEN)?;
        if block.len() < LEN || !block.starts_with(b"regf") {
            return Err(Error::damaged("it is no registry hive: its header is missing"));
        }
        let (major, minor) = (le32(&block, 20), le32(&block, 24));
        if major != 1 {
            return Err(Error::unsupported(format!("a registry hive of version {major}.{minor}")));
        }
        Ok(Self {
            primary: le32(&block, 4),
            secondary: le32(&block, 8),
            minor,
            kind: le32(&block, 28),
            root: le32(&block, 36),
            bins: le32(&block, 40).min(BINS_MAX),
            is_sound: checksum(slice(&block, 0, CHECKSUM)) == le32(&block, CHECKSUM),
        })
    }

    /// Whether it was closed: its logs have nothing to add then.
    pub const fn is_clean(&self) -> bool {
        self.is_sound && self.primary == self.secondary
    }
}

/// All words together by exclusive or; never 0 and never all ones.
fn checksum(bytes: &[u8]) -> u32 {
    match bytes.as_chunks::<4>().0.iter().fold(0, |sum, word| sum ^ u32::from_le_bytes(*word)) {
        0 => 1,
        u32::MAX => u32::MAX - 1,
        sum => sum,
    }
}
