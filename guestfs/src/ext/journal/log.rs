//! The blocks of a journal, and the structures in them.

use blockdev::{
    Result,
    fields::{be16, be32, be64, slice},
};

use super::{
    super::{checksum, map::Map},
    damaged,
    header::{Checksums, Header},
};

/// What blocks of a journal that are no content begin with.
pub const MAGIC: u32 = 0xc03b_3998;
/// Bytes of such a beginning: magic, type, number of the transaction.
pub const HEAD: usize = 12;
/// Bytes of the checksum that ends descriptors and revocations.
const TAIL: usize = 4;
/// Bytes that are read at once.
const READ_MAX: u64 = 1 << 20;

/// The first bytes of the block are the magic, and were overwritten with zeros so that nobody takes it for another.
pub const ESCAPED: u32 = 1;
/// No UUID follows the tag.
const SAME_UUID: u32 = 2;
/// The tag is the last.
const LAST: u32 = 8;

/// The blocks of a journal.
pub struct Log {
    map: Map,
    blocks: u64,
    /// The blocks that were read last, from `first` on.
    read: Vec<u8>,
    first: u64,
}

impl Log {
    /// Those of the file that `map` maps, which has `blocks` blocks.
    pub const fn new(map: Map, blocks: u64) -> Self {
        Self { map, blocks, read: Vec::new(), first: 0 }
    }

    /// Block `number`. Another `ahead` blocks, that one included, are likely to be asked for next.
    ///
    /// # Errors
    ///
    /// When it is not there or cannot be read.
    pub fn block(&mut self, number: u64, ahead: u64) -> Result<&[u8]> {
        let size = self.map.volume().block_size();
        let is_read = |first: u64, len: usize| number >= first && number - first < len as u64 / size;
        if !is_read(self.first, self.read.len()) {
            self.read.clear();
            let at = self.place(number)?;
            let (together, _) = self.map.run(number)?;
            let count = ahead.clamp(1, READ_MAX / size).min(together);
            self.read.resize((count * size) as usize, 0);
            let n = self.map.volume().device().read_at(&mut self.read, at)?;
            if n < self.read.len() {
                self.read.clear();
                return Err(damaged(number, "lies behind the end of the volume"));
            }
            self.first = number;
        }
        Ok(slice(&self.read, ((number - self.first) * size) as usize, size as usize))
    }

    /// Where block `number` is on the device, in bytes.
    ///
    /// # Errors
    ///
    /// When it is nowhere.
    pub fn place(&self, number: u64) -> Result<u64> {
        if number >= self.blocks {
            return Err(damaged(number, "lies behind its end"));
        }
        match self.map.run(number)? {
            (_, Some(place)) => Ok(place * self.map.volume().block_size()),
            (_, None) => Err(damaged(number, "is a hole")),
        }
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u32 {
        self.map.volume().superblock.block_size
    }

    /// Whether the volume has a block `number`.
    pub fn has_target(&self, number: u64) -> bool {
        number < self.map.volume().superblock.blocks
    }
}

/// What a block of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// It names the blocks that follow.
    Descriptor,
    /// It ends a transaction.
    Commit,
    /// It names blocks that are not to be replayed.
    Revocation,
}

/// What `block` is, if it belongs to the transaction `sequence`.
pub fn kind(block: &[u8], sequence: u32) -> Option<Block> {
    if be32(block, 0) != MAGIC || be32(block, 8) != sequence {
        return None;
    }
    match be32(block, 4) {
        1 => Some(Block::Descriptor),
        2 => Some(Block::Commit),
        5 => Some(Block::Revocation),
        _ => None,
    }
}

/// Whether the descriptor or revocation `block` has the right checksum.
pub fn is_sound(header: &Header, block: &[u8]) -> bool {
    let end = block.len().saturating_sub(TAIL);
    let sum = header.seed.add_range(block, 0..end).add(&[0; TAIL]);
    !header.has_block_checksums() || checksum::is_right(be32(block, end), sum.value())
}

/// Bytes of `block` before its checksum.
fn before_tail<'a>(header: &Header, block: &'a [u8]) -> &'a [u8] {
    let tail = if header.has_block_checksums() { TAIL } else { 0 };
    block.get(..block.len().saturating_sub(tail)).unwrap_or_default()
}

/// What a descriptor says of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The block of the volume whose content it is.
    pub target: u64,
    /// How it is stored.
    pub flags: u32,
    /// Its checksum, or the lower half.
    pub checksum: u32,
}

/// The tags of the descriptor `block`.
pub fn tags<'a>(header: &Header, block: &'a [u8]) -> impl Iterator<Item = Tag> + use<'a> {
    let (checksums, is_64bit) = (header.checksums, header.is_64bit);
    let (len, high) = match checksums {
        Checksums::Blocks32 => (16, 8),
        Checksums::Blocks16 => (if is_64bit { 14 } else { 10 }, 8),
        Checksums::No | Checksums::Transactions => (if is_64bit { 12 } else { 8 }, 8),
    };
    let block = before_tail(header, block);
    let mut at = Some(HEAD);
    std::iter::from_fn(move || {
        let start = at?;
        let tag = block.get(start..start.checked_add(len)?)?;
        let (flags, checksum) = match checksums {
            Checksums::Blocks32 => (be32(tag, 4), be32(tag, 12)),
            _ => (be16(tag, 6).into(), be16(tag, 4).into()),
        };
        let target = u64::from(be32(tag, 0)) | if is_64bit { u64::from(be32(tag, high)) << 32 } else { 0 };
        let uuid = if flags & SAME_UUID == 0 { 16 } else { 0 };
        at = (flags & LAST == 0).then_some(start + len + uuid);
        Some(Tag { target, flags, checksum })
    })
}

/// Whether `content`, as it is in the log, is what the tag of the transaction `sequence` says.
pub fn is_content(header: &Header, tag: &Tag, sequence: u32, content: &[u8]) -> bool {
    let sum = || header.seed.add(&sequence.to_be_bytes()).add(content).value();
    match header.checksums {
        Checksums::Blocks32 => checksum::is_right(tag.checksum, sum()),
        Checksums::Blocks16 => checksum::is_right(tag.checksum, sum() & 0xffff),
        Checksums::No | Checksums::Transactions => true,
    }
}

/// The blocks that the revocation `block` names.
pub fn revoked<'a>(header: &Header, block: &'a [u8]) -> impl Iterator<Item = u64> + use<'a> {
    const FIRST: usize = HEAD + 4;
    let is_64bit = header.is_64bit;
    let end = (be32(block, HEAD) as usize).saturating_sub(FIRST);
    let bytes = slice(before_tail(header, block), FIRST, end);
    let entries = bytes.chunks_exact(if is_64bit { 8 } else { 4 });
    entries.map(move |entry| if is_64bit { be64(entry, 0) } else { be32(entry, 0).into() })
}
