//! A vdev that was removed from a pool: its blocks were copied to others, and a table says where each stretch of it went.
//!
//! A block may lie across stretches that went to different places.

use blockdev::{Error, Result};

use crate::zfs::order::Order;

/// Bytes of an entry: where it was (63 bits, in sectors), size and vdev, where it went (in sectors).
pub const ENTRY: usize = 24;

const SECTOR_SHIFT: u32 = 9;

/// A stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    from: u64,
    len: u64,
    vdev: u32,
    to: u64,
}

/// A part of a block, and where it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub len: usize,
    pub vdev: u32,
    pub offset: u64,
}

/// Where everything went, ascending by where it was.
pub struct Mapping(Vec<Stretch>);

impl Mapping {
    /// The table in `bytes`.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is in no order.
    pub fn parse(bytes: &[u8], order: Order) -> Result<Self> {
        let place = |word: u64| (word & u64::MAX >> 1).saturating_mul(1 << SECTOR_SHIFT);
        let stretches = bytes.chunks_exact(ENTRY).map(|entry| {
            let [from, what, to] = order.words(entry, 0);
            let len = (what & 0xff_ffff) << SECTOR_SHIFT;
            Stretch { from: place(from), len, vdev: (what >> 32 & 0xff_ffff) as u32, to: place(to) }
        });
        let stretches: Vec<_> = stretches.collect();
        if !stretches.is_sorted_by(|a, b| a.from.saturating_add(a.len) <= b.from) {
            return Err(Error::damaged("the table of a removed vdev is in no order"));
        }
        Ok(Self(stretches))
    }

    /// Where the `len` bytes at `offset` went.
    ///
    /// # Errors
    ///
    /// `Damaged` when the table does not say it.
    pub fn pieces(&self, mut offset: u64, mut len: usize) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        while len > 0 {
            let next = self.0.partition_point(|stretch| stretch.from <= offset);
            let stretch = next.checked_sub(1).and_then(|n| self.0.get(n)).filter(|s| offset - s.from < s.len);
            let stretch =
                stretch.ok_or_else(|| Error::damaged(format!("byte {offset} of a removed vdev went nowhere")))?;
            let inside = offset - stretch.from;
            let part = usize::try_from(stretch.len - inside).unwrap_or(usize::MAX).min(len);
            pieces.push(Piece { len: part, vdev: stretch.vdev, offset: stretch.to.saturating_add(inside) });
            offset += part as u64;
            len -= part;
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_followed() {
        let entry = |from: u64, len: u64, vdev: u64, to: u64| [from, vdev << 32 | len, to];
        let table = [entry(10, 4, 1, 100), entry(14, 2, 2, 50), entry(20, 1, 1, 7)];
        let bytes = |table: &[[u64; 3]]| table.iter().flatten().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
        let mapping = Mapping::parse(&bytes(&table), Order::Big).unwrap();
        let first = Piece { len: 1024, vdev: 1, offset: 102 << 9 };
        let second = Piece { len: 512, vdev: 2, offset: 50 << 9 };
        assert_eq!(mapping.pieces(12 << 9, 1536).unwrap(), [first, second]);
        for nowhere in [9, 15, 16, 21] {
            assert!(mapping.pieces(nowhere << 9, 1024).is_err(), "{nowhere}");
        }
        assert!(Mapping::parse(&bytes(&[table[1], table[0]]), Order::Big).is_err());
    }
}
