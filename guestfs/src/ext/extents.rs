//! Maps that are trees of extents.
//!
//! A node is a header and entries of 12 bytes each: the root is in the inode, the others are blocks with a checksum
//! behind their last possible entry. A leaf's entry maps up to 32,768 blocks; one that is allocated and was never
//! written reads as zeros, like a hole.

use blockdev::{
    Result,
    fields::{le16, le32, slice},
};

use super::{
    checksum,
    map::{Origin, Window},
};

const MAGIC: u16 = 0xf30a;
/// Bytes of a header, and of an entry.
const ENTRY: usize = 12;
/// Levels below the root: more than five cannot be needed for 2^32 blocks.
const DEPTH_MAX: u16 = 5;
/// One above the largest number of a block of a file.
const BLOCKS_END: u64 = 1 << 32;
/// Longer than this is an extent that was not written; this much is its length too long.
const WRITTEN_MAX: u64 = 32_768;

/// The window around `block` of the file `origin`.
///
/// # Errors
///
/// When a node on the way is damaged.
pub fn window(origin: &Origin<'_>, block: u64) -> Result<Window> {
    if block >= BLOCKS_END {
        return Ok(Window::new(BLOCKS_END..u64::MAX));
    }
    let depth = le16(origin.root, 6);
    if depth > DEPTH_MAX {
        return Err(origin.damaged(format_args!("its tree of extents claims {depth} levels")));
    }
    let mut range = 0..BLOCKS_END;
    let mut entries = entries(origin, origin.root, depth)?;
    let mut node;
    for below in (0..depth).rev() {
        let next = entries.partition_point(|entry| u64::from(le32(entry, 0)) <= block);
        if let Some(entry) = entries.get(next) {
            range.end = range.end.min(le32(entry, 0).into());
        }
        let Some(entry) = next.checked_sub(1).and_then(|n| entries.get(n)) else {
            // Before the first entry there is nothing.
            return Ok(Window::new(range));
        };
        range.start = range.start.max(le32(entry, 0).into());
        let child = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
        node = origin.volume.block(child, |bytes| check(origin, bytes, child))?;
        entries = self::entries(origin, &node, below)?;
    }
    leaf(origin, entries, range)
}

/// The entries of `node`, below which there are `depth` levels.
fn entries<'a>(origin: &Origin<'_>, node: &'a [u8], depth: u16) -> Result<&'a [[u8; ENTRY]]> {
    let (count, max) = (usize::from(le16(node, 2)), usize::from(le16(node, 4)));
    let room = (node.len() / ENTRY).saturating_sub(1);
    let is_sound = le16(node, 0) == MAGIC && le16(node, 6) == depth && count <= max && max <= room;
    // The root of an empty file is a leaf.
    if !is_sound || (count == 0 && depth > 0) {
        return Err(origin.damaged(format_args!("its tree of extents has a node that is none")));
    }
    Ok(slice(node, ENTRY, count * ENTRY).as_chunks().0)
}

/// Nothing, when the node `bytes`, which is block `number`, has the right checksum.
fn check(origin: &Origin<'_>, bytes: &[u8], number: u64) -> Result<()> {
    if !origin.volume.superblock.has_checksums() {
        return Ok(());
    }
    let end = ENTRY + usize::from(le16(bytes, 4)) * ENTRY;
    let sum = origin.seed.add_range(bytes, 0..end).value();
    let what = format_args!("block {number}, a node of the extents of inode {},", origin.inode);
    checksum::expect(le32(bytes, end), sum, what)
}

/// What the leaf with `entries` says of `range`.
fn leaf(origin: &Origin<'_>, entries: &[[u8; ENTRY]], range: std::ops::Range<u64>) -> Result<Window> {
    let mut at = range.start;
    let end = range.end;
    let mut window = Window::new(range);
    for entry in entries {
        let (start, stored_len) = (u64::from(le32(entry, 0)), u64::from(le16(entry, 4)));
        let to = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
        let is_written = stored_len <= WRITTEN_MAX;
        let len = if is_written { stored_len } else { stored_len - WRITTEN_MAX };
        if len == 0 || start < at || start + len > end || !origin.volume.has_blocks(to, len) {
            return Err(origin.damaged(format_args!("its extent of {len} blocks at block {start} cannot be")));
        }
        if is_written {
            window.push(start, len, to);
        }
        at = start + len;
    }
    Ok(window)
}
