//! Attributes in blocks: entries with the offsets of names, and values beside the names or in blocks of their own.

use std::collections::HashSet;

use blockdev::{
    Error, Result,
    fields::{be16, be32, slice},
};

use super::{Found, flags};
use crate::xfs::{
    check,
    hashes::{self, Block, Kind},
    inode::Fork,
    map::Map,
    volume::Volume,
};

/// Blocks that are followed: a bound for damaged chains.
const BLOCKS_MAX: usize = 1 << 16;

/// The largest value.
const VALUE_MAX: usize = 1 << 16;

/// Bytes before the value in a block of version 5.
const VALUE_HEADER: usize = 56;

/// Adds all attributes of `fork` of inode `owner` to `found`: those of the leftmost block, and of all after it.
pub fn list(volume: &Volume, owner: u64, fork: &Fork, found: &mut Found) -> Result<()> {
    let map = Map::new(owner, fork)?;
    let len = volume.sb.block_len() as usize;
    let Some(mut leaf) = hashes::descend(volume, &map, 0, len, Kind::AttrLeaf, 0)? else { return Ok(()) };
    let mut seen = HashSet::new();
    loop {
        entries(volume, &map, &leaf, found)?;
        let next = leaf.next();
        if next == 0 {
            return Ok(());
        }
        if !seen.insert(next) || seen.len() > BLOCKS_MAX {
            return Err(Error::damaged(format!("inode {owner}: its attribute blocks have no end")));
        }
        leaf = hashes::block(volume, &map, next, len)?;
        if leaf.kind != Kind::AttrLeaf {
            return Err(Error::damaged(format!("inode {owner}: a block of another kind among its attributes")));
        }
    }
}

/// The attributes of one block. Behind its header come entries of hash, offset, and flags.
fn entries(volume: &Volume, map: &Map, leaf: &Block, found: &mut Found) -> Result<()> {
    let wrong = || Error::damaged(format!("inode {}: an attribute lies outside of its block", map.owner()));
    let (bytes, start) = (&leaf.bytes, if volume.sb.v5 { 80 } else { 32 });
    let all = bytes.get(start..).unwrap_or_default().as_chunks::<8>().0;
    for entry in all.get(..leaf.count()).ok_or_else(wrong)? {
        let (at, flag) = (usize::from(be16(entry, 4)), entry[6]);
        let field = |at: usize, len: usize| Some(slice(bytes, at, len)).filter(|field| field.len() == len);
        if flag & flags::LOCAL != 0 {
            let head = field(at, 3).ok_or_else(wrong)?;
            let (value_len, name_len) = (usize::from(be16(head, 0)), usize::from(head[2]));
            let name = field(at + 3, name_len).ok_or_else(wrong)?;
            let value = field(at + 3 + name_len, value_len).ok_or_else(wrong)?;
            found.add(flag, name, || Ok(value.to_vec()))?;
        } else {
            let head = field(at, 9).ok_or_else(wrong)?;
            let name = field(at + 9, head[8].into()).ok_or_else(wrong)?;
            found.add(flag, name, || remote(volume, map, be32(head, 0).into(), be32(head, 4) as usize))?;
        }
    }
    Ok(())
}

/// A value of `len` bytes from block `block` of the fork on.
fn remote(volume: &Volume, map: &Map, mut block: u64, len: usize) -> Result<Vec<u8>> {
    let owner = map.owner();
    let damaged = |what: &str| Error::damaged(format!("inode {owner}: an attribute's value {what}"));
    if len > VALUE_MAX {
        return Err(damaged(&format!("of {len} bytes")));
    }
    let sb = &volume.sb;
    let mut value = Vec::with_capacity(len);
    while value.len() < len {
        let bytes = volume.mapped(map, block, sb.block_len() as usize, |bytes, place| match sb.v5 {
            true => check::ATTR_VALUE.verify(sb, bytes, place, owner),
            false => Ok(()),
        })?;
        let bytes = bytes.ok_or_else(|| damaged("lies in a hole"))?;
        let mut part: &[u8] = &bytes;
        if sb.v5 {
            // Each block says which part of the value it has.
            let (offset, here) = (be32(&bytes, 4) as usize, be32(&bytes, 8) as usize);
            part = slice(&bytes, VALUE_HEADER, here);
            if offset != value.len() || part.len() != here || here == 0 {
                return Err(damaged("is not in order"));
            }
        }
        value.extend_from_slice(slice(part, 0, len - value.len()));
        block += 1;
    }
    Ok(value)
}
