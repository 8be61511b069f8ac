//! Command descriptor blocks (SPC-4 4.2).

use blockdev::fields::{be16, be32, be64};

/// A CDB of up to 16 bytes; shorter ones are followed by zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cdb(pub [u8; 16]);

impl Cdb {
    /// The operation code.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// A byte; zero past the end.
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    /// Whether a bit of a byte is set.
    pub(crate) fn bit(&self, at: usize, mask: u8) -> bool {
        self.byte(at) & mask != 0
    }

    pub(crate) fn be16(&self, at: usize) -> u16 {
        be16(&self.0, at)
    }

    pub(crate) fn be32(&self, at: usize) -> u32 {
        be32(&self.0, at)
    }

    pub(crate) fn be64(&self, at: usize) -> u64 {
        be64(&self.0, at)
    }

    /// The service action, of operation codes that have one.
    pub(crate) fn service_action(&self) -> u8 {
        self.byte(1) & 0x1f
    }

    /// Logical block address and number of blocks, at the places where all read and write commands of this length have
    /// them (SBC-3 5.8 and on). In a CDB of six bytes, 0 blocks are 256.
    pub(crate) fn blocks(&self) -> (u64, u64) {
        match self.opcode() >> 5 {
            0 => {
                let lba = self.be32(0) & 0x1f_ffff;
                let count = self.byte(4);
                (lba.into(), if count == 0 { 256 } else { count.into() })
            }
            4 => (self.be64(2), self.be32(10).into()),
            5 => (self.be32(2).into(), self.be32(6).into()),
            _ => (self.be32(2).into(), self.be16(7).into()),
        }
    }
}
