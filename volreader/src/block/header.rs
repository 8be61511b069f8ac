//! The block header, formats BB02 (5.x to 13.x, 24 bytes) and BB03 (15.0, 32 bytes).

use super::Session;
use crate::bytes::Fields;

/// Bytes of the shorter header form.
pub const MIN_HEADER_LEN: usize = 24;
/// Bytes of the longer header form.
pub const MAX_HEADER_LEN: usize = 32;
/// No stock Storage daemon reads a longer block (15.0: 20,000,000 bytes), so none is believed.
pub const MAX_BLOCK_LEN: u32 = 20_000_000;

/// The block format, by its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `BB02`: CRC-32.
    Bb02,
    /// `BB03`: XXH3-64, option bits, volume encryption.
    Bb03,
}

/// Option bits of BB03.
mod option {
    pub const CHECKSUM: u32 = 1;
    pub const VOLUME_ENCRYPTED: u32 = 2;
    pub const BLOCK_ENCRYPTED: u32 = 4;
}

/// A block header whose fields are plausible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Format, and with it the header's length.
    pub format: Format,
    /// Length of the block in bytes, this header included; at least the header's own length.
    pub len: u32,
    /// Counts the blocks of the session without gaps, over all volumes.
    pub number: u32,
    /// Whose block it is.
    pub session: Session,
    /// The stored checksum, `None` when the block says that it has none. BB02 cannot say so: there a stored 0
    /// that does not match means "none".
    pub checksum: Option<u64>,
    /// Whether everything behind the header is encrypted.
    pub encrypted: bool,
    /// Whether the volume's data blocks are encrypted; set in its label block, too, which is not.
    pub volume_encrypted: bool,
}

impl Header {
    /// Parse the start of a block. `None` when it is none: wrong magic, or a length that no block has.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let first = fields.u32()?;
        let len = fields.u32()?;
        let number = fields.u32()?;
        let magic = fields.take(4)?;
        let (id, time) = (fields.u32()?, fields.u32()?);
        let session = Session { time, id };
        let header = match magic {
            b"BB02" => Self {
                format: Format::Bb02,
                len,
                number,
                session,
                checksum: Some(u64::from(first)),
                encrypted: false,
                volume_encrypted: false,
            },
            b"BB03" => {
                let sum = fields.u64()?;
                let checksum = (first & option::CHECKSUM != 0).then_some(sum);
                let encrypted = first & option::BLOCK_ENCRYPTED != 0;
                let volume_encrypted = first & option::VOLUME_ENCRYPTED != 0;
                Self { format: Format::Bb03, len, number, session, checksum, encrypted, volume_encrypted }
            }
            _ => return None,
        };
        (header.header_len() <= len && len <= MAX_BLOCK_LEN).then_some(header)
    }

    /// Length of this header in bytes: where the first record starts.
    #[must_use]
    pub const fn header_len(&self) -> u32 {
        self.format.header_len()
    }
}

impl Format {
    /// Length of the header in bytes.
    #[must_use]
    pub const fn header_len(self) -> u32 {
        match self {
            Self::Bb02 => 24,
            Self::Bb03 => 32,
        }
    }

    /// The four bytes at offset 12.
    #[must_use]
    pub const fn magic(self) -> &'static [u8; 4] {
        match self {
            Self::Bb02 => b"BB02",
            Self::Bb03 => b"BB03",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bb02(len: u32) -> Vec<u8> {
        let mut b = Vec::new();
        for v in [7, len, 3] {
            b.extend(u32::to_be_bytes(v));
        }
        b.extend(b"BB02");
        b.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        b
    }

    #[test]
    fn lengths_that_no_block_has_are_refused() {
        assert_eq!(Header::parse(&bb02(24)).unwrap().session, Session { time: 2, id: 1 });
        assert_eq!(Header::parse(&bb02(23)), None);
        assert_eq!(Header::parse(&bb02(MAX_BLOCK_LEN + 1)), None);
        assert_eq!(Header::parse(&bb02(24)[..23]), None);
    }
}
