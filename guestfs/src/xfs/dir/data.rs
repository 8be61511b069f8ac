//! Blocks with entries: each entry has its inode, name, type and own offset; free space says its length. The only block
//! of a directory has its hashes at its end. ("Block Directories", "Leaf Directories".)

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{
    Error, Result,
    fields::{be16, be32, be64},
};

use super::{HASHES_START, Stored};
use crate::xfs::{
    check,
    inode::Inode,
    map::{Map, Target},
    volume::Volume,
};

/// What stands in the place of an inode's first half where there is no entry.
const FREE: u16 = 0xffff;

/// Offsets of entries are counted in these.
const UNIT_LOG: u32 = 3;

/// A block with entries.
pub struct Block {
    /// Its bytes.
    bytes: Arc<[u8]>,
    /// Where entries begin and end.
    start: usize,
    end: usize,
    /// Hashes at its end: those of a directory of one block.
    hashes: Option<usize>,
    ftype: bool,
    owner: u64,
}

impl Block {
    /// The block `number` of the directory's blocks; `None` where there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is not one.
    pub fn read(volume: &Volume, map: &Map, number: u64) -> Result<Option<Self>> {
        let sb = &volume.sb;
        let kinds = if sb.v5 { [check::DIR_BLOCK.magic, check::DIR_DATA.magic] } else { V4 };
        let bytes = volume.mapped(map, number << sb.dir_log, sb.dir_block_len(), |bytes, place| {
            let fields = if check::DIR_BLOCK.is_in(bytes) { &check::DIR_BLOCK } else { &check::DIR_DATA };
            if sb.v5 { fields.verify(sb, bytes, place, map.owner()) } else { Ok(()) }
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        let wrong =
            |what: &str| Error::damaged(format!("inode {}: block {number} of its directory {what}", map.owner()));
        let magic = check::Magic::Start(bytes.first_chunk().copied().unwrap_or_default());
        let start = if sb.v5 { 64 } else { 16 };
        let (end, hashes) = if magic == kinds[0] {
            let tail = bytes.len() - 8;
            let count = be32(&bytes, tail) as usize;
            let end = count.checked_mul(8).and_then(|len| tail.checked_sub(len)).filter(|end| *end >= start);
            (end.ok_or_else(|| wrong(&format!("has {count} hashes")))?, Some(count))
        } else if magic == kinds[1] {
            (bytes.len(), None)
        } else {
            return Err(wrong(&format!("has the wrong magic number {:#010x}", be32(&bytes, 0))));
        };
        Ok(Some(Self { bytes, start, end, hashes, ftype: sb.ftype, owner: map.owner() }))
    }

    /// The hashes at its end; `None` when they are in blocks of their own.
    pub fn hashes(&self) -> Option<&[[u8; 8]]> {
        self.hashes?;
        Some(self.bytes.get(self.end..self.bytes.len() - 8).unwrap_or_default().as_chunks().0)
    }

    /// The entry at byte `at`: its inode and name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn entry(&self, at: usize) -> Result<(u64, &[u8])> {
        match self.item(at)? {
            (_, Some(entry)) => Ok((entry.inode, entry.name)),
            _ => Err(self.wrong(at)),
        }
    }

    /// What is at byte `at`: where the next is, and the entry unless it is free. The cookie is not set.
    fn item(&self, at: usize) -> Result<(usize, Option<Stored<'_>>)> {
        let wrong = || self.wrong(at);
        let bytes = self.bytes.get(..self.end).unwrap_or_default();
        let head = bytes.get(at..).filter(|head| head.len() >= 8 && at >= self.start).ok_or_else(wrong)?;
        if be16(head, 0) == FREE {
            let len = usize::from(be16(head, 2));
            let valid = len >= 8 && len % 8 == 0 && len <= head.len();
            return if valid { Ok((at + len, None)) } else { Err(wrong()) };
        }
        let name_len = head.get(8).copied().map_or(0, usize::from);
        let len = (9 + name_len + usize::from(self.ftype) + 2).next_multiple_of(8);
        let entry = head.get(..len).filter(|_| name_len > 0).ok_or_else(wrong)?;
        // An entry ends with its own offset.
        if usize::from(be16(entry, len - 2)) != at {
            return Err(wrong());
        }
        let name = entry.get(9..9 + name_len).unwrap_or_default();
        let ftype = if self.ftype { entry.get(9 + name_len).copied().unwrap_or_default() } else { 0 };
        Ok((at + len, Some(Stored { name, inode: be64(entry, 0), ftype, cookie: 0 })))
    }

    fn wrong(&self, at: usize) -> Error {
        Error::damaged(format!("inode {}: no entry of its directory at byte {at} of a block", self.owner))
    }
}

/// The magic numbers of version 4: of the only block, and of one of several.
const V4: [check::Magic; 2] = [check::Magic::Start(*b"XD2B"), check::Magic::Start(*b"XD2D")];

/// Calls `give` for each entry from `cookie` on: a cookie is one more than the entry's offset in units of 8 bytes.
pub fn list(
    volume: &Volume,
    inode: &Inode,
    cookie: u64,
    give: &mut dyn FnMut(Stored<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let map = Map::new(inode.number, &inode.data)?;
    let sb = &volume.sb;
    let block_len = sb.dir_block_len() as u64;
    let end = inode.size.min(HASHES_START);
    let mut number = (cookie << UNIT_LOG) / block_len;
    while number * block_len < end {
        let Some(block) = Block::read(volume, &map, number)? else {
            // A hole where all entries of a block were deleted: on to the next extent.
            let hole = map.at(volume, number << sb.dir_log)?;
            let skip = if hole.target == Target::Hole { hole.len >> sb.dir_log } else { 1 };
            number = number.saturating_add(skip.max(1)).min(end);
            continue;
        };
        let mut at = block.start;
        while at < block.end {
            let (next, entry) = block.item(at)?;
            let own = (number * block_len + at as u64) >> UNIT_LOG;
            if let Some(entry) = entry.filter(|_| own >= cookie)
                && give(Stored { cookie: own + 1, ..entry }).is_break()
            {
                return Ok(());
            }
            at = next;
        }
        number += 1;
    }
    Ok(())
}
