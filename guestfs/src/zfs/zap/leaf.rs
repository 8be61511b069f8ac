//! A leaf of a fat ZAP: a header of 48 bytes, a hash table of chunk numbers, and chunks of 24 bytes. A chunk is an entry,
//! 21 bytes of a name or a value, or free.

use blockdev::{Error, Result, fields::slice};

use super::Value;
use crate::zfs::pool::Block;

const LEAF: u64 = 1 << 63;
const MAGIC: u32 = 0x2ab_1eaf;

const HEADER: usize = 48;
const CHUNK: usize = 24;
/// Bytes of a name or a value in one chunk, after its type.
const ARRAY: usize = 21;

// Types of chunks.
const ENTRY: u8 = 252;
const BYTES: u8 = 251;

/// Where a chain of chunks ends.
const END: u16 = 0xffff;

/// Bytes of a name, its NUL included: 256, or 1024 with the feature `longname`.
const NAME_MAX: usize = 1025;

/// Bytes of a value: a leaf of 128 KiB has room for less.
const VALUE_MAX: usize = 128 << 10;

/// A leaf.
pub struct Leaf {
    block: Block,
    /// Bits with which all hashes in it begin.
    pub prefix: u64,
    /// How many they are.
    pub prefix_bits: u32,
}

/// An entry: where it is in the order of entries, and where its name and value are.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Hash of its name.
    pub hash: u64,
    /// Number among those of equal hash.
    pub collision: u32,
    chunk: usize,
}

impl Leaf {
    /// The leaf in `block`.
    ///
    /// # Errors
    ///
    /// `Damaged` when there is none.
    pub fn new(block: Block) -> Result<Self> {
        let (prefix, prefix_bits) = (block.u64(16), u32::from(block.u16(32)));
        let leaf = Self { block, prefix, prefix_bits };
        if leaf.block.u64(0) != LEAF || leaf.block.u32(24) != MAGIC || prefix_bits > 64 {
            return Err(Error::damaged("a leaf of a hash table has a wrong header"));
        }
        Ok(leaf)
    }

    /// Whether `hash` begins as those in it do.
    pub fn is_for(&self, hash: u64) -> bool {
        hash.checked_shr(64 - self.prefix_bits).unwrap_or(0) == self.prefix
    }

    fn buckets(&self) -> usize {
        self.block.len() >> 5
    }

    fn chunks(&self) -> usize {
        (self.block.len() - 2 * self.buckets()) / CHUNK - 2
    }

    /// Where chunk `number` begins.
    fn at(&self, number: usize) -> Result<usize> {
        if number >= self.chunks() {
            return Err(Error::damaged("a leaf of a hash table points behind its end"));
        }
        Ok(HEADER + 2 * self.buckets() + number * CHUNK)
    }

    fn kind(&self, at: usize) -> u8 {
        self.block.get(at).copied().unwrap_or(0)
    }

    /// All entries, in no order.
    pub fn places(&self) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for number in 0..self.chunks() {
            let at = self.at(number)?;
            if self.kind(at) == ENTRY {
                places.push(self.place(number, at));
            }
        }
        Ok(places)
    }

    fn place(&self, chunk: usize, at: usize) -> Place {
        Place { hash: self.block.u64(at + 16), collision: self.block.u32(at + 12), chunk }
    }

    /// The value of `name`, whose hash is `hash`.
    pub fn get(&self, name: &[u8], hash: u64) -> Result<Option<Value>> {
        let bucket_bits = self.buckets().trailing_zeros();
        let bucket = hash.checked_shl(self.prefix_bits).unwrap_or(0).checked_shr(64 - bucket_bits).unwrap_or(0);
        let mut next = self.block.u16(HEADER + 2 * bucket as usize);
        for _ in 0..self.chunks() {
            if next == END {
                return Ok(None);
            }
            let at = self.at(usize::from(next))?;
            if self.kind(at) != ENTRY {
                return Err(Error::damaged("a chain of names leads elsewhere"));
            }
            let place = self.place(usize::from(next), at);
            if place.hash == hash && self.name(&place)? == name {
                return self.value(&place).map(Some);
            }
            next = self.block.u16(at + 2);
        }
        Err(Error::damaged("a chain of names runs in a circle"))
    }

    /// The name at `place`.
    pub fn name(&self, place: &Place) -> Result<Vec<u8>> {
        let at = self.at(place.chunk)?;
        let len = usize::from(self.block.u16(at + 6));
        if !(1..=NAME_MAX).contains(&len) {
            return Err(Error::damaged(format!("a name of {len} bytes")));
        }
        let mut name = self.bytes(self.block.u16(at + 4), len)?;
        // The NUL.
        name.pop();
        Ok(name)
    }

    /// The value at `place`.
    pub fn value(&self, place: &Place) -> Result<Value> {
        let at = self.at(place.chunk)?;
        let width = usize::from(self.kind(at + 1));
        let count = usize::from(self.block.u16(at + 10));
        if !matches!(width, 1 | 2 | 4 | 8) || width * count > VALUE_MAX {
            return Err(Error::damaged(format!("a value of {count} integers of {width} bytes")));
        }
        let bytes = self.bytes(self.block.u16(at + 8), width * count)?;
        // Always big-endian.
        let mut integers = bytes.chunks_exact(width).map(|bytes| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
        Ok(match (count, integers.next()) {
            (1, Some(only)) => Value::One(only),
            (_, first) => Value::Many(first.into_iter().chain(integers).collect()),
        })
    }

    /// The `len` bytes that begin in chunk `next`.
    fn bytes(&self, mut next: u16, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len.min(NAME_MAX));
        while bytes.len() < len {
            let at = self.at(usize::from(next))?;
            if self.kind(at) != BYTES {
                return Err(Error::damaged("a chain of a name's or value's parts leads elsewhere"));
            }
            bytes.extend_from_slice(slice(&self.block, at + 1, ARRAY.min(len - bytes.len())));
            next = self.block.u16(at + 1 + ARRAY);
        }
        Ok(bytes)
    }
}
