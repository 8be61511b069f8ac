//! Protocol data units (RFC 7143 section 11): heads of 48 bytes, and their fields by name.
//!
//! Everything on the wire is big endian. A head is kept as its bytes, and read and written in place.

use blockdev::fields::{be16, be32};
use crc_fast::{CrcAlgorithm, checksum};

/// Operation codes.
pub(crate) mod opcode {
    pub(crate) const NOP_OUT: u8 = 0x00;
    pub(crate) const SCSI_COMMAND: u8 = 0x01;
    pub(crate) const TASK_MANAGEMENT: u8 = 0x02;
    pub(crate) const LOGIN: u8 = 0x03;
    pub(crate) const TEXT: u8 = 0x04;
    pub(crate) const DATA_OUT: u8 = 0x05;
    pub(crate) const LOGOUT: u8 = 0x06;
    pub(crate) const SNACK: u8 = 0x10;
    pub(crate) const NOP_IN: u8 = 0x20;
    pub(crate) const SCSI_RESPONSE: u8 = 0x21;
    pub(crate) const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub(crate) const LOGIN_RESPONSE: u8 = 0x23;
    pub(crate) const TEXT_RESPONSE: u8 = 0x24;
    pub(crate) const DATA_IN: u8 = 0x25;
    pub(crate) const LOGOUT_RESPONSE: u8 = 0x26;
    pub(crate) const READY_TO_TRANSFER: u8 = 0x31;
    pub(crate) const ASYNC: u8 = 0x32;
    pub(crate) const REJECT: u8 = 0x3f;
}

/// Reasons of a reject (11.17.1).
pub(crate) mod reason {
    pub(crate) const SNACK: u8 = 0x03;
    pub(crate) const PROTOCOL: u8 = 0x04;
    pub(crate) const NOT_SUPPORTED: u8 = 0x05;
    pub(crate) const TOO_MANY: u8 = 0x06;
    pub(crate) const TASK_IN_PROGRESS: u8 = 0x07;
    pub(crate) const INVALID_FIELD: u8 = 0x09;
}

/// The flag F of byte 1: final.
pub(crate) const FINAL: u8 = 0x80;
/// A tag that stands for none.
pub(crate) const NO_TAG: u32 = 0xffff_ffff;
/// Bytes of a head.
pub(crate) const HEAD: usize = 48;
/// Bytes of a digest.
pub(crate) const DIGEST: usize = 4;

/// A basic header segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head(pub(crate) [u8; HEAD]);

impl Head {
    /// Of this kind, with F and nothing else.
    pub(crate) const fn new(opcode: u8) -> Self {
        let mut bytes = [0; HEAD];
        bytes[0] = opcode;
        bytes[1] = FINAL;
        Self(bytes)
    }

    pub(crate) const fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    /// Whether it is done whatever came before (flag I).
    pub(crate) const fn immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    pub(crate) const fn flags(&self) -> u8 {
        self.0[1]
    }

    pub(crate) const fn is_final(&self) -> bool {
        self.flags() & FINAL != 0
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(crate) fn be16(&self, at: usize) -> u16 {
        be16(&self.0, at)
    }

    pub(crate) fn be32(&self, at: usize) -> u32 {
        be32(&self.0, at)
    }

    /// Bytes of the additional header segments.
    pub(crate) const fn additional(&self) -> usize {
        self.0[4] as usize * 4
    }

    /// Bytes of the data segment, without padding.
    pub(crate) fn data(&self) -> usize {
        (self.be32(4) & 0x00ff_ffff) as usize
    }

    pub(crate) fn lun(&self) -> [u8; 8] {
        self.0.get(8..16).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default()
    }

    /// The initiator's tag of the task.
    pub(crate) fn tag(&self) -> u32 {
        self.be32(16)
    }

    /// The target's transfer tag, or the tag of the task that is referred to.
    pub(crate) fn other_tag(&self) -> u32 {
        self.be32(20)
    }

    pub(crate) fn command_number(&self) -> u32 {
        self.be32(24)
    }

    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    }

    pub(crate) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.set(at, bytes);
        self
    }

    pub(crate) fn with_flags(self, flags: u8) -> Self {
        self.with(1, &[flags])
    }

    pub(crate) fn with_tag(self, tag: u32) -> Self {
        self.with(16, &tag.to_be_bytes())
    }

    pub(crate) fn with_other_tag(self, tag: u32) -> Self {
        self.with(20, &tag.to_be_bytes())
    }

    pub(crate) fn with_lun(self, lun: [u8; 8]) -> Self {
        self.with(8, &lun)
    }

    /// Say how long the data segment is, of at most 2^24 - 1 bytes.
    pub(crate) fn set_data(&mut self, len: usize) {
        let [_, a, b, c] = u32::try_from(len).unwrap_or(0).to_be_bytes();
        self.set(5, &[a, b, c]);
    }
}

/// Bytes up to the next multiple of four.
pub(crate) const fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

/// CRC32C, in the order in which it is sent (13.1).
pub(crate) fn digest(bytes: &[u8]) -> [u8; DIGEST] {
    // The algorithm has 32 bits.
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(crc & 0xffff_ffff).unwrap_or(0).to_le_bytes()
}

/// Whether the number `a` comes before `b` (RFC 1982).
pub(crate) const fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 3720 B.4.
    #[test]
    fn digests() {
        assert_eq!(digest(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(digest(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(digest(&ascending), [0x4e, 0x79, 0xdd, 0x46]);
    }

    #[test]
    fn numbers_wrap() {
        assert!(before(1, 2) && !before(2, 1) && !before(1, 1));
        assert!(before(u32::MAX, 0) && !before(0, u32::MAX));
        assert_eq!([0, 1, 2, 3, 4].map(padding), [0, 3, 2, 1, 0]);
    }
}
