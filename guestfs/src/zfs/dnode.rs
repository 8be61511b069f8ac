//! Objects: everything in a pool is one, from a file's content to the list of datasets. A dnode describes an object: how
//! large its blocks are, the pointers at the root of its tree of blocks, and up to 64 KiB of attributes (the *bonus*).

use blockdev::{Error, Result, fields::slice};

use super::{
    block_pointer::{BlockPointer, SIZE},
    order::Order,
    pool::{Block, Pool},
};

/// Bytes of a dnode without further slots.
pub const SLOT: usize = 512;

/// Bytes before the block pointers.
const HEADER: usize = 64;

/// Levels of indirection there may be: seven of the smallest reach every byte of 2^64.
const LEVELS_MAX: u8 = 8;

/// Flags of a dnode: `used` is in bytes, and there is a pointer to a further block of attributes at its end.
const USED_BYTES: u8 = 1;
const SPILL: u8 = 4;

/// An object's description.
#[derive(Clone)]
pub struct Dnode {
    /// The block that it lies in.
    block: Block,
    at: usize,
    len: usize,
}

/// Where a block of an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: zeros, and so are the blocks after it, this many with it.
    Hole(u64),
    /// Where this points.
    At(BlockPointer),
}

impl Dnode {
    /// The dnode at `at` of `block`.
    ///
    /// # Errors
    ///
    /// `NotFound` when the slot is free; `Damaged` when it contradicts itself.
    pub fn parse(block: Block, at: usize) -> Result<Self> {
        let field = |offset| block.get(at.saturating_add(offset)).copied().unwrap_or(0);
        let len = (usize::from(field(12)) + 1) * SLOT;
        let (kind, indirect_shift, levels, pointers) = (field(0), field(1), field(2), field(3));
        if kind == 0 {
            return Err(Error::not_found("there is no such object"));
        }
        let dnode = Self { at, len, block };
        let is_sound = at.checked_add(len).is_some_and(|end| end <= dnode.block.len())
            && (1..=3).contains(&pointers)
            && (1..=LEVELS_MAX).contains(&levels)
            && (levels == 1 || (10..=17).contains(&indirect_shift))
            && dnode.block_size() > 0
            && dnode.bonus_start() + dnode.bonus_len() <= len;
        if is_sound { Ok(dnode) } else { Err(Error::damaged("an object's dnode contradicts itself")) }
    }

    fn bytes(&self) -> &[u8] {
        slice(&self.block, self.at, self.len)
    }

    fn u8(&self, at: usize) -> u8 {
        self.bytes().get(at).copied().unwrap_or(0)
    }

    /// Byte order of the dnode and its bonus.
    pub fn order(&self) -> Order {
        self.block.order
    }

    /// Type of its bonus.
    pub fn bonus_kind(&self) -> u8 {
        self.u8(4)
    }

    fn bonus_start(&self) -> usize {
        HEADER + usize::from(self.u8(3)) * SIZE
    }

    fn bonus_len(&self) -> usize {
        usize::from(self.block.u16(self.at + 10))
    }

    /// Its bonus.
    pub fn bonus(&self) -> &[u8] {
        slice(self.bytes(), self.bonus_start(), self.bonus_len())
    }

    /// The pointer to a block of further attributes, where there is one.
    pub fn spill(&self) -> Option<BlockPointer> {
        let end = self.at + self.len;
        (self.u8(7) & SPILL != 0).then(|| self.block.pointer(end.saturating_sub(SIZE)))
    }

    /// Bytes of its blocks.
    pub fn block_size(&self) -> u64 {
        u64::from(self.block.u16(self.at + 8)) << 9
    }

    /// Number of its last block.
    pub fn last_block(&self) -> u64 {
        self.block.u64(self.at + 16)
    }

    /// Bytes that are allocated for it.
    pub fn used(&self) -> u64 {
        let used = self.block.u64(self.at + 24);
        if self.u8(7) & USED_BYTES != 0 { used } else { used.saturating_mul(512) }
    }

    /// Where block `number` is.
    ///
    /// # Errors
    ///
    /// When a block of pointers on the way cannot be read.
    pub fn place(&self, pool: &Pool, number: u64) -> Result<Place> {
        let levels = u32::from(self.u8(2));
        // Pointers in a block of them, as a power of two.
        let fan_out = u32::from(self.u8(1)).saturating_sub(SIZE.trailing_zeros());
        let shift = |level: u32| fan_out * level;
        // Behind the last block there is nothing, whatever the tree would say.
        let end = self.last_block().saturating_add(1);
        if number >= end {
            return Ok(Place::Hole(u64::MAX - number));
        }
        let top = number.checked_shr(shift(levels - 1)).unwrap_or(0);
        if top >= u64::from(self.u8(3)) {
            return Err(Error::damaged("an object has more blocks than its tree"));
        }
        let mut pointer = self.block.pointer(self.at + HEADER + top as usize * SIZE);
        for level in (0..levels).rev() {
            if pointer.is_hole() {
                // The whole subtree is one.
                let span = 1_u64.checked_shl(shift(level)).unwrap_or(u64::MAX);
                return Ok(Place::Hole((span - number % span).min(end - number)));
            }
            if pointer.level() != level as u8 {
                return Err(Error::damaged("a block lies in the wrong level of its object's tree"));
            }
            if level == 0 {
                break;
            }
            let pointers = pool.metadata(&pointer)?;
            if pointers.len() != SIZE << fan_out {
                return Err(Error::damaged("a block of pointers has a wrong size"));
            }
            let index = number.checked_shr(shift(level - 1)).unwrap_or(0) & ((1 << fan_out) - 1);
            pointer = pointers.pointer(index as usize * SIZE);
        }
        if pointer.size() as u64 != self.block_size() && !pointer.is_encrypted() && !pointer.is_redacted() {
            return Err(Error::damaged("a block has not the size of its object's blocks"));
        }
        Ok(Place::At(pointer))
    }

    /// Block `number`, of metadata; `None` where it is a hole.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn metadata(&self, pool: &Pool, number: u64) -> Result<Option<Block>> {
        match self.place(pool, number)? {
            Place::Hole(_) => Ok(None),
            Place::At(pointer) => pool.metadata(&pointer).map(Some),
        }
    }

    /// The first `len` bytes of its content.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn head(&self, pool: &Pool, len: usize) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        for number in 0_u64.. {
            if content.len() >= len {
                break;
            }
            match self.metadata(pool, number)? {
                Some(block) => content.extend_from_slice(&block),
                None => content.resize(content.len().saturating_add(self.block_size() as usize).min(len), 0),
            }
        }
        content.truncate(len);
        Ok(content)
    }
}
