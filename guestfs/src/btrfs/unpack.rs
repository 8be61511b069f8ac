//! Compressed extents.
//!
//! An extent is compressed as a whole, at most 128 KiB of content at once. What it unpacks to may be shorter than the
//! extent says, which is a multiple of sectors: the rest is zeros.

use blockdev::{
    Error, Result,
    codec::{self, lzo},
    fields::{le32, slice},
};

/// The most bytes that are compressed as one, and that they are compressed to.
pub const PACKED_MAX: u64 = 128 << 10;

/// How an extent is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Zlib,
    Lzo,
    Zstd,
}

impl Method {
    /// That of the number in an extent item; none for 0.
    pub fn from_number(number: u8) -> Result<Option<Self>> {
        Ok(match number {
            0 => None,
            1 => Some(Self::Zlib),
            2 => Some(Self::Lzo),
            3 => Some(Self::Zstd),
            _ => return Err(Error::unsupported(format!("has data in compression {number}, which is not known"))),
        })
    }

    /// Makes `out`, which is empty, the `len` bytes that `packed` stands for.
    pub fn unpack(self, packed: &[u8], len: usize, sector: u32, out: &mut Vec<u8>) -> Result<()> {
        out.resize(len + lzo::SLACK, 0);
        let room = out.get_mut(..len).unwrap_or_default();
        match self {
            Self::Zlib => codec::zlib(packed, room)?,
            Self::Zstd => codec::zstd_frame(packed, room)?.1,
            Self::Lzo => lzo_sectors(packed, sector as usize, out)?,
        };
        out.truncate(len);
        Ok(())
    }
}

/// Unpacks a length of the whole, then one piece a sector, each after its length, which is never cut by the end of a
/// sector. `out` has room for what they make and for the decoder's scratch.
fn lzo_sectors(packed: &[u8], sector: usize, out: &mut [u8]) -> Result<usize> {
    const LENGTH: usize = 4;
    let damaged = || Error::damaged("compressed data is damaged: a piece goes beyond the end");
    let packed = packed.get(..le32(packed, 0) as usize).ok_or_else(damaged)?;
    let len = out.len() - lzo::SLACK;
    let (mut at, mut made) = (LENGTH, 0);
    while at < packed.len() && made < len {
        let left = sector - at % sector;
        if left < LENGTH {
            at += left;
        }
        let size = le32(packed, at) as usize;
        at += LENGTH;
        let piece = slice(packed, at, size);
        if piece.is_empty() || piece.len() < size {
            return Err(damaged());
        }
        let end = (made + sector).min(len) + lzo::SLACK;
        let room = out.get_mut(made..end).unwrap_or_default();
        made += lzo::decode(piece, room).map_err(|failure| match failure {
            lzo::Failure::Room => Error::damaged("compressed data is damaged: a piece makes more than a sector"),
            lzo::Failure::Damaged(e) => e,
        })?;
        at += size;
    }
    // The decoder's wide steps.
    out.get_mut(made..).unwrap_or_default().fill(0);
    Ok(made)
}

/// A compressed extent; as one number it needs no table to be found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    pub method: Method,
    /// Where it is.
    pub logical: u64,
    /// Its bytes, packed and unpacked: whole sectors, at most [`PACKED_MAX`].
    pub packed: u32,
    pub len: u32,
}

impl Unit {
    // From below: two bits for the method, eight for each length less one, the rest for the address; all in sectors.
    const LEN_BITS: u32 = 8;
    const ADDRESS_AT: u32 = 2 + 2 * Self::LEN_BITS;

    /// As a number.
    pub fn number(&self, sector: u32) -> Result<u64> {
        let sectors = |len: u32| u64::from((len / sector).saturating_sub(1));
        let address = self.logical / u64::from(sector);
        if address >> (64 - Self::ADDRESS_AT) != 0 || sectors(self.len.max(self.packed)) >> Self::LEN_BITS != 0 {
            return Err(Error::unsupported(format!("has packed data at logical address {}: too far", self.logical)));
        }
        let method = match self.method {
            Method::Zlib => 1,
            Method::Lzo => 2,
            Method::Zstd => 3,
        };
        Ok(address << Self::ADDRESS_AT | sectors(self.packed) << (2 + Self::LEN_BITS) | sectors(self.len) << 2 | method)
    }

    /// The unit with this number.
    pub fn from_number(number: u64, sector: u32) -> Result<Self> {
        let bytes = |at: u32| ((number >> at & ((1 << Self::LEN_BITS) - 1)) as u32 + 1).saturating_mul(sector);
        let method = Method::from_number((number & 3) as u8)?;
        Ok(Self {
            method: method.ok_or_else(|| Error::damaged("a unit that is not packed"))?,
            logical: (number >> Self::ADDRESS_AT).saturating_mul(sector.into()),
            packed: bytes(2 + Self::LEN_BITS),
            len: bytes(2),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_numbers() {
        for (sector, logical) in [(4096, 1 << 57), (512, 1 << 54), (65536, 3 << 60)] {
            for (packed, len) in [(sector, sector), (sector, 128 << 10), (128 << 10, 128 << 10)] {
                let unit = Unit { method: Method::Lzo, logical, packed, len };
                assert_eq!(Unit::from_number(unit.number(sector).unwrap(), sector).unwrap(), unit);
            }
        }
        let far = Unit { method: Method::Zstd, logical: 1 << 62, packed: 4096, len: 4096 };
        assert!(far.number(4096).is_err());
    }
}
