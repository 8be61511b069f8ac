//! The four checksums a filesystem can have, over its superblock, its nodes and its data.

use blake2::{Blake2b, digest::consts::U32};
use blockdev::{Error, Result};
use crc_fast::{CrcAlgorithm, Digest as Crc, checksum};
use sha2::{Digest, Sha256};

/// The algorithm of a filesystem (superblock, byte 196).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-32C.
    Crc32c,
    /// xxHash, 64 bits.
    XxHash64,
    /// SHA-256.
    Sha256,
    /// BLAKE2b, 256 bits, no key.
    Blake2b,
}

impl Checksum {
    /// That with this number.
    pub fn from_number(number: u16) -> Result<Self> {
        Ok(match number {
            0 => Self::Crc32c,
            1 => Self::XxHash64,
            2 => Self::Sha256,
            3 => Self::Blake2b,
            _ => {
                let what = "of the btrfs is not one that is known (0 to 3)";
                return Err(Error::unsupported(format!("checksum algorithm {number} {what}")));
            }
        })
    }

    /// Bytes of one.
    pub const fn size(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::XxHash64 => 8,
            Self::Sha256 | Self::Blake2b => 32,
        }
    }

    /// Whether that of `bytes` is what `stored` begins with.
    ///
    /// A fuzzer cannot make checksums: built for one, all are right.
    pub fn matches(self, bytes: &[u8], stored: &[u8]) -> bool {
        let is_same = |sum: &[u8]| stored.get(..sum.len()) == Some(sum);
        let is_right = match self {
            Self::Crc32c => is_same(&(checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()),
            Self::XxHash64 => is_same(&xxhash_rust::xxh64::xxh64(bytes, 0).to_le_bytes()),
            Self::Sha256 => is_same(&Sha256::digest(bytes)),
            Self::Blake2b => is_same(&Blake2b::<U32>::digest(bytes)),
        };
        is_right || cfg!(fuzzing)
    }
}

/// The CRC-32C of `bytes` after `start`, neither inverted: what names are hashed with.
fn raw_crc32c(start: u32, bytes: &[u8]) -> u32 {
    let mut crc = Crc::new_with_init_state(CrcAlgorithm::Crc32Iscsi, start.into());
    crc.update(bytes);
    !(crc.finalize() as u32)
}

/// The hash of the name of a directory entry or an extended attribute: the offset of its key.
pub fn name_hash(name: &[u8]) -> u64 {
    raw_crc32c(!1, name).into()
}

/// The hash of a name in a directory, of the key of an extended inode reference.
pub fn extref_hash(dir: u64, name: &[u8]) -> u64 {
    raw_crc32c(dir as u32, name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number under which every btrfs keeps the name of its default subvolume.
    #[test]
    fn hash_of_a_name() {
        assert_eq!(name_hash(b"default"), 2_378_154_706);
    }
}
