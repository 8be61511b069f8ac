//! Checksums as ext computes them.
//!
//! CRC-32C comes without the final inversion of other users: each structure's sum starts where that of its
//! surroundings ended (volume, inode, block), so sums are passed on as values.

use blockdev::{Error, Result};
use crc_fast::{CrcAlgorithm, Digest};

/// A CRC-32C that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// Before the first byte.
    pub const START: Self = Self(u32::MAX);

    /// That which has reached `value`.
    pub const fn from(value: u32) -> Self {
        Self(value)
    }

    /// The sum after `bytes` more.
    #[must_use]
    pub fn add(self, bytes: &[u8]) -> Self {
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, self.0.into());
        digest.update(bytes);
        Self(digest.get_state() as u32)
    }

    /// The sum after the part of `bytes` in `range`, which ends with the bytes where they are fewer.
    #[must_use]
    pub fn add_range(self, bytes: &[u8], range: std::ops::Range<usize>) -> Self {
        let rest = bytes.get(range.start..).unwrap_or_default();
        self.add(rest.get(..range.end.saturating_sub(range.start)).unwrap_or(rest))
    }

    /// What it has reached.
    pub const fn value(self) -> u32 {
        self.0
    }
}

/// The CRC-16 of group descriptors before CRC-32C was taken (`uninit_bg`), over all `parts` in their order.
pub fn crc16(parts: &[&[u8]]) -> u16 {
    let mut digest = Digest::new(CrcAlgorithm::Crc16Modbus);
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize() as u16
}

/// Whether the checksum `stored` is the one that was `computed`. A fuzzer would get no further than here: built for
/// one, all are right.
pub fn is_right<T: PartialEq + Copy>(stored: T, computed: T) -> bool {
    stored == computed || cfg!(fuzzing)
}

/// The error of a structure, called `what`, whose checksum is wrong.
pub fn wrong(what: impl std::fmt::Display) -> Error {
    Error::damaged(format!("the checksum of {what} is wrong: it was damaged after it was written"))
}

/// Nothing, or the error of `what`, whose checksum is `stored` and should be `computed`.
pub fn expect<T: PartialEq + Copy>(stored: T, computed: T, what: impl std::fmt::Display) -> Result<()> {
    if is_right(stored, computed) { Ok(()) } else { Err(wrong(what)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_on() {
        // The check values of both in the catalogue of parametrised CRCs.
        assert_eq!(!Crc32c::START.add(b"123456789").value(), 0xe306_9283);
        assert_eq!(Crc32c::START.add(b"1234").add(b"").add(b"56789"), Crc32c::START.add(b"123456789"));
        assert_eq!(Crc32c::START.add_range(b"_1234_", 1..5), Crc32c::START.add(b"1234"));
        assert_eq!(Crc32c::START.add_range(b"12", 1..5), Crc32c::START.add(b"2"));
        assert_eq!(Crc32c::START.add_range(b"12", 3..5), Crc32c::START);
        assert_eq!(crc16(&[b"12345", b"6789"]), 0x4b37);
    }
}
