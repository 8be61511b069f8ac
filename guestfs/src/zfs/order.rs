//! The byte order of a structure.
//!
//! ZFS writes in the order of its host and notes it in what points to the structure; a pool that moved between hosts has
//! structures of both orders.

use blockdev::fields::{be16, be32, be64, le16, le32, le64};

/// Which byte of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// The lowest.
    Little,
    /// The highest.
    Big,
}

impl Order {
    /// The 16-bit number at `at`; 0 where `bytes` end before.
    pub fn u16(self, bytes: &[u8], at: usize) -> u16 {
        match self {
            Self::Little => le16(bytes, at),
            Self::Big => be16(bytes, at),
        }
    }

    /// The 32-bit number at `at`; 0 where `bytes` end before.
    pub fn u32(self, bytes: &[u8], at: usize) -> u32 {
        match self {
            Self::Little => le32(bytes, at),
            Self::Big => be32(bytes, at),
        }
    }

    /// The 64-bit number at `at`; 0 where `bytes` end before.
    pub fn u64(self, bytes: &[u8], at: usize) -> u64 {
        match self {
            Self::Little => le64(bytes, at),
            Self::Big => be64(bytes, at),
        }
    }

    /// `N` numbers of 64 bits from `at` on.
    pub fn words<const N: usize>(self, bytes: &[u8], at: usize) -> [u64; N] {
        std::array::from_fn(|n| self.u64(bytes, at.saturating_add(8 * n)))
    }
}
