//! Taking Windows BackupRead data apart (streams 11, 12, 21, 24, 31, 33; format reference, section 7).
//!
//! What the File daemon saves of a Windows file is a sequence of `header name payload`: the main data, the
//! alternate data streams, the security descriptor and more, one after the other. [`Demuxer`] finds out where
//! each payload lies without looking into it: it is fed header bytes, in portions cut anywhere, tells what it
//! found ([`Found`]) and how many bytes of payload may now be skipped ([`Demuxer::skippable`]). An index of a
//! 200 GB file therefore reads some dozens of bytes; the payload is mapped, never copied.

use blockdev::{Error, Result};

/// Fixed part of a header: id, attributes, size, name length.
const HEADER_LEN: usize = 20;
/// Bit of a stream's attributes: its data follows as sparse blocks.
const SPARSE_ATTRIBUTE: u32 = 8;
/// In front of the data of a sparse block: its offset in the stream.
const SPARSE_OFFSET_LEN: usize = 8;
/// Longest name accepted, in bytes of UTF-16. NTFS allows 255 characters and a type suffix.
const MAX_NAME_LEN: usize = 2048;

/// What kind of payload a BackupRead stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payload {
    /// The file's content (id 1), or a part of it at an offset (id 9, sparse block).
    Main,
    /// Extended attributes (id 2).
    ExtendedAttributes,
    /// The security descriptor (id 3).
    SecurityDescriptor,
    /// An alternate data stream (id 4), or a part of it at an offset (id 9 after a sparse one).
    Alternate,
    /// Hard-link information (id 5).
    Link,
    /// Object identifier (id 7).
    ObjectId,
    /// Reparse point (id 8).
    ReparsePoint,
    /// Transactional NTFS data (id 10).
    Transaction,
    /// An id that is not documented.
    Unknown(u32),
}

impl Payload {
    const fn from_id(id: u32) -> Self {
        match id {
            1 | 9 => Self::Main,
            2 => Self::ExtendedAttributes,
            3 => Self::SecurityDescriptor,
            4 => Self::Alternate,
            5 => Self::Link,
            7 => Self::ObjectId,
            8 => Self::ReparsePoint,
            10 => Self::Transaction,
            other => Self::Unknown(other),
        }
    }
}

/// One payload and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub payload: Payload,
    /// The stream's attributes as Windows gave them.
    pub attributes: u32,
    /// Name of an alternate data stream, without `:` and `:$DATA`; empty for others. UTF-8, where lone
    /// surrogates are encoded like other code points (WTF-8). It comes from the volume: it can hold `/`.
    pub name: Vec<u8>,
    /// Offset within the payload's own stream at which it starts: 0 but for sparse blocks.
    pub offset: u64,
    /// Where its first byte is in the BackupRead data.
    pub position: u64,
    /// Its length. A sparse block of length 0 tells where the data ends.
    pub len: u64,
}

/// Finds the payloads in BackupRead data that is fed in order.
#[derive(Debug, Clone, Default)]
pub struct Demuxer {
    /// Bytes of the header under way; never more than header, name and sparse offset.
    header: Vec<u8>,
    /// Payload bytes still to come before the next header.
    payload_left: u64,
    /// Bytes taken in so far.
    position: u64,
    /// Name of the alternate data stream whose sparse blocks may follow.
    sparse_alternate: Option<Vec<u8>>,
}

impl Demuxer {
    /// A demultiplexer at the start of a file's BackupRead data.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Offset in the BackupRead data of the byte to be fed next.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Bytes from [`Self::position`] on that need not be fed: [`Self::skip`] them.
    #[must_use]
    pub const fn skippable(&self) -> u64 {
        self.payload_left
    }

    /// Pass over `count` payload bytes without looking at them.
    ///
    /// # Errors
    ///
    /// `Invalid` when `count` is more than [`Self::skippable`].
    pub fn skip(&mut self, count: u64) -> Result<()> {
        let Some(left) = self.payload_left.checked_sub(count) else {
            return Err(Error::invalid(format!(
                "cannot skip {count} bytes of BackupRead data, a header comes after {}",
                self.payload_left
            )));
        };
        self.payload_left = left;
        // Cannot overflow: the end of the payload was checked when its header came.
        self.position = self.position.saturating_add(count);
        Ok(())
    }

    /// Take in the next bytes, payload included, and call `found` for each payload whose header is complete.
    ///
    /// # Errors
    ///
    /// `Damaged` when a header makes no sense; what follows it cannot be told apart any more.
    pub fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Found)) -> Result<()> {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let count = self.payload_left.min(bytes.len() as u64);
                self.skip(count)?;
                // `count` is at most the length of `bytes`.
                bytes = bytes.get(count as usize..).unwrap_or_default();
                continue;
            }
            let wanted = self.header_len()?.saturating_sub(self.header.len());
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            self.header.extend_from_slice(now);
            self.position = self.position.saturating_add(now.len() as u64);
            bytes = later;
            if self.header.len() == self.header_len()? {
                found(self.finish_header()?);
            }
        }
        Ok(())
    }

    /// Whether the data may end here.
    ///
    /// # Errors
    ///
    /// `Damaged` when a header or a payload is under way.
    pub fn finish(&self) -> Result<()> {
        if self.payload_left > 0 || !self.header.is_empty() {
            return Err(Error::damaged(format!(
                "BackupRead data ends at {}, {}",
                self.position,
                match self.payload_left {
                    0 => "in a header".to_owned(),
                    left => format!("{left} bytes too early"),
                }
            )));
        }
        Ok(())
    }

    /// A little-endian number of the fixed part.
    fn field<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.header.get(at..)?.first_chunk::<N>().copied()
    }

    /// Length of the header under way as far as is known yet.
    fn header_len(&self) -> Result<usize> {
        let (Some(id), Some(size), Some(name_len)) = (self.field(0), self.field(8), self.field(16)) else {
            return Ok(HEADER_LEN);
        };
        let name_len = u32::from_le_bytes(name_len) as usize;
        if name_len > MAX_NAME_LEN || !name_len.is_multiple_of(2) {
            return Err(self.bad_header(format_args!("a name of {name_len} bytes")));
        }
        let mut len = HEADER_LEN + name_len;
        if u32::from_le_bytes(id) == 9 {
            if u64::from_le_bytes(size) < SPARSE_OFFSET_LEN as u64 {
                return Err(self.bad_header(format_args!("a sparse block without an offset")));
            }
            len += SPARSE_OFFSET_LEN;
        }
        Ok(len)
    }

    /// The whole header is there: what it announces. Ready for its payload afterwards.
    fn finish_header(&mut self) -> Result<Found> {
        let (Some(id), Some(attributes), Some(size)) = (self.field(0), self.field(4), self.field(8)) else {
            return Err(self.bad_header(format_args!("less than its fixed part")));
        };
        let id = u32::from_le_bytes(id);
        let mut len = u64::from_le_bytes(size);
        let mut name_end = self.header.len();
        let mut offset = 0;
        if id == 9 {
            len = len.saturating_sub(SPARSE_OFFSET_LEN as u64);
            name_end = name_end.saturating_sub(SPARSE_OFFSET_LEN);
            offset = u64::from_le_bytes(self.field(name_end).unwrap_or_default());
        }
        // Windows sizes are signed: anything above cannot be true and would overflow whoever adds to it.
        let ends = [self.position, offset].map(|start| start.checked_add(len).filter(|&end| end <= i64::MAX as u64));
        if ends.contains(&None) {
            return Err(self.bad_header(format_args!("{len} bytes at offset {offset}")));
        }
        let attributes = u32::from_le_bytes(attributes);
        let mut payload = Payload::from_id(id);
        let mut name = Vec::new();
        if payload == Payload::Alternate {
            name = stream_name(self.header.get(HEADER_LEN..name_end).unwrap_or_default());
        }
        // A sparse block belongs to the stream in front of it; of those only data streams can be sparse.
        if id != 9 {
            let sparse = payload == Payload::Alternate && attributes & SPARSE_ATTRIBUTE != 0;
            self.sparse_alternate = sparse.then(|| name.clone());
        } else if let Some(alternate) = &self.sparse_alternate {
            payload = Payload::Alternate;
            name.clone_from(alternate);
        }
        self.header.clear();
        self.payload_left = len;
        Ok(Found { payload, attributes, name, offset, position: self.position, len })
    }

    fn bad_header(&self, what: std::fmt::Arguments<'_>) -> Error {
        let start = self.position.saturating_sub(self.header.len() as u64);
        Error::damaged(format!("the BackupRead header at {start} tells {what}"))
    }
}

/// `:name:$DATA` in UTF-16LE to `name` in UTF-8.
fn stream_name(utf16: &[u8]) -> Vec<u8> {
    let units =
        utf16.chunks_exact(2).map(|pair| pair.iter().rev().fold(0, |unit, &byte| (unit << 8) | u16::from(byte)));
    let mut name = Vec::with_capacity(utf16.len());
    for decoded in char::decode_utf16(units) {
        match decoded {
            Ok(c) => name.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let unit = lone.unpaired_surrogate();
                name.extend([0xe0 | (unit >> 12) as u8, 0x80 | ((unit >> 6) & 0x3f) as u8, 0x80 | (unit & 0x3f) as u8]);
            }
        }
    }
    let name = name.strip_prefix(b":").unwrap_or(&name);
    name.strip_suffix(b":$DATA").unwrap_or(name).to_vec()
}

#[cfg(test)]
#[path = "win32_tests.rs"]
mod tests;
