//! Fat ZAP: a table of 2^n pointers, indexed by the first n bits of a name's hash, to leaves. Several pointers may lead to
//! the same leaf; the leaf knows for which prefix of hashes it is.

use std::ops::ControlFlow;

use blockdev::{Error, Result};

use super::{
    Entry, Sink, Value,
    leaf::{self, Leaf},
};
use crate::zfs::{
    dnode::Dnode,
    pool::{Block, Pool},
};

const MAGIC: u64 = 0x2_f52a_b2ab;

/// Bits of a hash that are used: the rest is for telling equal ones apart in cookies.
const HASH_BITS: u32 = 28;

/// Bits of a cookie for telling equal hashes apart.
const COLLISION_BITS: u32 = 31;

/// Leaves are larger than a header and have at most 16-bit numbers of chunks.
const BLOCK_SHIFTS: std::ops::RangeInclusive<u32> = 9..=20;

// Flags of names: hashed as upper case; anything else changes characters beyond ASCII only.
const UPPER_CASE: u64 = 2;

/// CRC-64 of ECMA-182, reflected: what names are hashed with.
const CRC: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u64, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xc96c_5795_d787_0f42 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// A hash table of leaves.
pub struct Fat<'a> {
    pool: &'a Pool,
    dnode: &'a Dnode,
    header: Block,
    block_shift: u32,
    table: Table,
    salt: u64,
    normalization: u64,
}

/// The table of pointers.
struct Table {
    /// Its first block; `None` where it is the second half of the header's.
    block: Option<u64>,
    /// Bits of an index.
    bits: u32,
}

impl<'a> Fat<'a> {
    pub fn new(pool: &'a Pool, dnode: &'a Dnode, header: Block) -> Result<Self> {
        let block_shift = header.len().trailing_zeros();
        let word = |n: usize| header.u64(8 * n);
        let (start, blocks, bits) = (word(2), word(3), word(4));
        // Words 5 to 9: a larger table to be, and counts.
        let (salt, normalization, flags) = (word(10), word(11), word(12));
        if word(1) != MAGIC || !header.len().is_power_of_two() || !BLOCK_SHIFTS.contains(&block_shift) {
            return Err(Error::damaged("a hash table of names has a wrong header"));
        }
        if flags != 0 {
            return Err(Error::unsupported("a hash table has keys that are no names"));
        }
        // The table fills half the block of the header, or blocks of its own.
        let wanted = match blocks {
            0 => u64::from(block_shift - 4),
            _ if blocks.is_power_of_two() => u64::from(blocks.trailing_zeros() + block_shift - 3),
            _ => u64::MAX,
        };
        if bits != wanted || bits > u64::from(HASH_BITS) {
            return Err(Error::damaged("a hash table of names has a wrong size"));
        }
        let table = Table { block: (blocks > 0).then_some(start), bits: bits as u32 };
        Ok(Self { pool, dnode, header, block_shift, table, salt, normalization })
    }

    /// The leaf for hashes that begin with the bits `index`.
    fn leaf(&self, index: u64) -> Result<Leaf> {
        let words_shift = self.block_shift - 3;
        let number = match self.table.block {
            None => self.header.u64((self.header.len() / 2).saturating_add(8 * index as usize)),
            Some(first) => {
                let block = self.dnode.metadata(self.pool, first.saturating_add(index >> words_shift))?;
                let word = index & ((1 << words_shift) - 1);
                block.map_or(0, |block| block.u64(8 * word as usize))
            }
        };
        let block = if number == 0 { None } else { self.dnode.metadata(self.pool, number)? };
        let leaf = Leaf::new(block.ok_or_else(|| Error::damaged("a hash table of names points to nowhere"))?)?;
        // Else the order of hashes would be broken, and walks through it might not end.
        let unused = self.table.bits.checked_sub(leaf.prefix_bits);
        if unused.is_none_or(|unused| leaf.prefix != index >> unused) {
            return Err(Error::damaged("a leaf of a hash table is for other names"));
        }
        Ok(leaf)
    }

    /// The first bits of `hash`, as many as the table has.
    fn index(&self, hash: u64) -> u64 {
        hash.checked_shr(64 - self.table.bits).unwrap_or(0)
    }

    pub fn get(&self, name: &[u8]) -> Result<Option<Value>> {
        if self.normalization != 0 && !name.is_ascii() {
            return self.search(name);
        }
        let upper = self.normalization & UPPER_CASE != 0;
        let hash = self.hash(name.iter().map(|byte| if upper { byte.to_ascii_uppercase() } else { *byte }));
        self.leaf(self.index(hash))?.get(name, hash)
    }

    /// The hash of `name` would need the tables of Unicode that the guest's system had: all names are compared.
    fn search(&self, name: &[u8]) -> Result<Option<Value>> {
        let mut found = None;
        self.list(0, &mut |entry| {
            if entry.name != name {
                return Ok(ControlFlow::Continue(()));
            }
            found = Some(entry.value);
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    fn hash(&self, name: impl Iterator<Item = u8>) -> u64 {
        let crc = name.fold(self.salt, |hash, byte| hash >> 8 ^ CRC[usize::from(hash as u8 ^ byte)]);
        crc & !(u64::MAX >> HASH_BITS)
    }

    pub fn list(&self, cookie: u64, sink: Sink<'_>) -> Result<()> {
        let mut index = self.index((cookie >> COLLISION_BITS) << (64 - HASH_BITS));
        while index < 1 << self.table.bits {
            let leaf = self.leaf(index)?;
            let mut entries = Vec::new();
            for place in leaf.places()? {
                let leaf::Place { hash, collision, .. } = place;
                let key = (hash >> (64 - HASH_BITS)) << COLLISION_BITS | u64::from(collision);
                if collision >= 1 << COLLISION_BITS || hash << HASH_BITS != 0 || !leaf.is_for(hash) {
                    return Err(Error::damaged("a hash table has a name in the wrong place"));
                }
                if key >= cookie {
                    entries.push((key, place));
                }
            }
            entries.sort_unstable_by_key(|(key, _)| *key);
            for (key, place) in entries {
                let entry = Entry { name: leaf.name(&place)?, value: leaf.value(&place)?, cookie: key + 1 };
                if sink(entry)?.is_break() {
                    return Ok(());
                }
            }
            index = (leaf.prefix + 1) << (self.table.bits - leaf.prefix_bits);
        }
        Ok(())
    }
}
