//! Block pointers (128 bytes): where a block's copies are, how it is packed, and its checksum.
//!
//! The checksum of a block lies in the pointer to it, so that a whole pool hangs on the checksum of its uberblock. Of
//! small blocks the pointer itself has the content ("embedded").

use super::order::Order;

/// Bytes of a block pointer.
pub const SIZE: usize = 128;

/// Bytes of a sector, in which sizes and places are counted.
const SECTOR_SHIFT: u32 = 9;

/// Where a copy of a block is ("data virtual address").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// Number of the top-level vdev.
    pub vdev: u32,
    /// Byte of its space.
    pub offset: u64,
    /// Whether there is a gang header in place of the block.
    pub gang: bool,
    /// Bytes that are allocated.
    pub allocated: u64,
}

/// A block pointer: its words, whatever order they were stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockPointer {
    words: [u64; 16],
}

/// Word with the properties.
const PROPERTIES: usize = 6;

impl BlockPointer {
    /// The pointer at `at` of a block in `order`.
    pub fn parse(bytes: &[u8], at: usize, order: Order) -> Self {
        Self { words: order.words(bytes, at) }
    }

    fn bits(&self, from: u32, count: u32) -> u64 {
        self.words[PROPERTIES] >> from & ((1 << count) - 1)
    }

    /// Whether it points to nothing: zeros.
    pub fn is_hole(&self) -> bool {
        !self.is_embedded() && self.words[0] == 0 && self.words[1] == 0
    }

    /// Whether it has the content itself.
    pub fn is_embedded(&self) -> bool {
        self.bits(39, 1) == 1
    }

    /// Whether it stands for data that was left out when the dataset was sent here.
    pub fn is_redacted(&self) -> bool {
        self.embedded_kind() == Some(2)
    }

    /// What sort of content it has itself, where it has some: 0 is data.
    pub fn embedded_kind(&self) -> Option<u64> {
        self.is_embedded().then(|| self.bits(40, 8))
    }

    /// The up to 112 packed bytes that it has itself: all words but the properties and the birth.
    pub fn embedded(&self) -> Vec<u8> {
        let words = self.words[..6].iter().chain(&self.words[7..10]).chain(&self.words[11..]);
        let mut bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.stored_size());
        bytes
    }

    /// Bytes of the unpacked block: at most 32 MiB.
    pub fn size(&self) -> usize {
        if self.is_embedded() { self.bits(0, 25) as usize + 1 } else { (self.bits(0, 16) as usize + 1) << SECTOR_SHIFT }
    }

    /// Bytes of the block as it is stored: at most 32 MiB.
    pub fn stored_size(&self) -> usize {
        if self.is_embedded() {
            self.bits(25, 7) as usize + 1
        } else {
            (self.bits(16, 16) as usize + 1) << SECTOR_SHIFT
        }
    }

    /// How it is packed.
    pub fn compression(&self) -> u8 {
        self.bits(32, 7) as u8
    }

    /// Which checksum it has.
    pub fn checksum_kind(&self) -> u8 {
        self.bits(40, 8) as u8
    }

    /// Its checksum.
    pub fn checksum(&self) -> [u64; 4] {
        [self.words[12], self.words[13], self.words[14], self.words[15]]
    }

    /// Level of indirection: 0 is content.
    pub fn level(&self) -> u8 {
        self.bits(56, 5) as u8
    }

    /// Whether its content is encrypted, or authenticated as part of an encrypted dataset.
    pub fn is_encrypted(&self) -> bool {
        self.bits(61, 1) == 1
    }

    /// Whether it points to the head of a set of objects, which is never encrypted itself.
    pub fn is_objset(&self) -> bool {
        const OBJSET: u64 = 11;
        self.bits(48, 8) == OBJSET && self.level() == 0
    }

    /// Byte order of what it points to.
    pub fn order(&self) -> Order {
        if self.bits(63, 1) == 1 { Order::Little } else { Order::Big }
    }

    /// The transaction group in which it was written.
    pub fn physical_birth(&self) -> u64 {
        if self.words[9] != 0 { self.words[9] } else { self.words[10] }
    }

    /// Where its copies are.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        let (pairs, _) = self.words[..6].as_chunks::<2>();
        pairs.iter().filter(|pair| **pair != [0, 0]).map(|[place, offset]| Address {
            vdev: (place >> 32 & 0xff_ffff) as u32,
            offset: (offset & (u64::MAX >> 1)).saturating_mul(1 << SECTOR_SHIFT),
            gang: offset >> 63 == 1,
            allocated: (place & 0xff_ffff) << SECTOR_SHIFT,
        })
    }

    /// What tells its block from all others.
    pub fn identity(&self) -> [u64; 7] {
        let [a, b, .., c, d, e, f] = self.words;
        [a, b, self.words[PROPERTIES], c, d, e, f]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_format_has_them() {
        let mut words = [0_u64; 16];
        words[0] = 5 << 32 | 0x10;
        words[1] = 1 << 63 | 0x1234;
        // 128 KiB in 4 KiB, lz4, fletcher4, plain file contents, level 1, little-endian.
        words[PROPERTIES] = 255 | 7 << 16 | 15 << 32 | 7 << 40 | 19 << 48 | 1 << 56 | 1 << 63;
        words[10] = 77;
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
        let pointer = BlockPointer::parse(&bytes, 0, Order::Big);
        assert_eq!((pointer.size(), pointer.stored_size()), (128 << 10, 4096));
        assert_eq!((pointer.compression(), pointer.checksum_kind(), pointer.level()), (15, 7, 1));
        assert_eq!((pointer.order(), pointer.physical_birth()), (Order::Little, 77));
        assert!(!pointer.is_hole() && !pointer.is_embedded() && !pointer.is_encrypted());
        let all: Vec<_> = pointer.addresses().collect();
        assert_eq!(all, [Address { vdev: 5, offset: 0x1234 << 9, gang: true, allocated: 0x2000 }]);
    }
}
