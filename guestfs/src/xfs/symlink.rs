//! Targets of symbolic links: in the inode, or in blocks of their own, which have a header in version 5.

use blockdev::{
    Error, Result,
    fields::{be32, slice},
};

use super::{
    check,
    inode::{Format, Inode},
    map::{Map, Target},
    volume::Volume,
};
use crate::Kind;

/// The longest target.
const TARGET_MAX: u64 = 1024;

/// Bytes before the target in a block of version 5.
const HEADER: usize = 56;

/// What the link `inode` points to.
///
/// # Errors
///
/// When it is not a link, or cannot be read.
pub fn target(volume: &Volume, inode: &Inode) -> Result<Vec<u8>> {
    if inode.kind != Kind::Symlink {
        return Err(Error::invalid(format!("inode {} is not a symbolic link", inode.number)));
    }
    let cut = || Error::damaged(format!("inode {}: the link's target is cut off", inode.number));
    let len = usize::try_from(inode.size.min(TARGET_MAX)).unwrap_or(0);
    if inode.size > TARGET_MAX {
        return Err(Error::damaged(format!("inode {}: a link's target of {} bytes", inode.number, inode.size)));
    }
    if inode.data.format == Format::Local {
        return inode.data.bytes().get(..len).map(<[u8]>::to_vec).ok_or_else(cut);
    }
    let map = Map::new(inode.number, &inode.data)?;
    let sb = &volume.sb;
    let mut target = Vec::with_capacity(len);
    let mut block = 0;
    while target.len() < len {
        // Each extent is one buffer with one header.
        let piece = map.at(volume, block)?;
        let Target::Stored(place) = piece.target else { return Err(cut()) };
        let left = (len - target.len() + if sb.v5 { HEADER } else { 0 }) as u64;
        let blocks = piece.len.min(left.div_ceil(sb.block_len()));
        let buffer = volume.blocks.get(place, (blocks << sb.block_log) as usize, |bytes| match sb.v5 {
            true => check::SYMLINK.verify(sb, bytes, place, inode.number),
            false => Ok(()),
        })?;
        let part = if sb.v5 {
            if be32(&buffer, 4) as usize != target.len() {
                return Err(Error::damaged(format!(
                    "inode {}: the blocks of the link's target are not in order",
                    inode.number
                )));
            }
            slice(&buffer, HEADER, be32(&buffer, 8) as usize)
        } else {
            &buffer
        };
        let part = slice(part, 0, len - target.len());
        if part.is_empty() {
            return Err(cut());
        }
        target.extend_from_slice(part);
        block += blocks;
    }
    Ok(target)
}
