//! Extents: a logged one takes the place of what is in its range.

use blockdev::{
    Result,
    fields::{le64, slice},
};

use super::{BYTES, Replay, set};
use crate::btrfs::key::{Key, kind};

/// Places of fields in an extent item.
const RAM: usize = 8;
const KIND: usize = 20;
const DISK: usize = 21;
const OFFSET: usize = 37;
const LEN: usize = 45;
/// An extent whose content is in the item.
const INLINE: u8 = 0;

fn is_inline(item: &[u8]) -> bool {
    slice(item, KIND, 1) == [INLINE]
}

/// Bytes of a file that the extent `item` is for, and how many it counts as allocated.
fn lengths(item: &[u8], sector: u32) -> (u64, u64) {
    if is_inline(item) {
        let len = le64(item, RAM);
        return (len.checked_next_multiple_of(sector.into()).unwrap_or(u64::MAX), len);
    }
    let len = le64(item, LEN);
    (len, if le64(item, DISK) == 0 { 0 } else { len })
}

impl Replay<'_> {
    /// An extent of a file.
    pub(super) fn extent(&mut self, key: Key, item: &[u8]) -> Result<()> {
        if self.kind(key.object)?.is_none() || self.tree.get(key)?.is_some_and(|there| there.data() == item) {
            return Ok(());
        }
        let (len, allocated) = lengths(item, self.sector);
        self.drop_extents(key.object, key.offset, key.offset.saturating_add(len))?;
        self.tree.put(key, Some(item.into()))?;
        self.change_inode(key.object, |inode| set(inode, BYTES, le64(inode, BYTES).saturating_add(allocated)))
    }

    /// Takes `from..to` out of the extents of the inode `number`.
    pub(super) fn drop_extents(&mut self, number: u64, from: u64, to: u64) -> Result<()> {
        let first = Key::new(number, kind::EXTENT_DATA, from);
        let mut next = match self.tree.floor(first)?.filter(|item| item.key.is(number, kind::EXTENT_DATA)) {
            Some(item) => item.key.offset,
            None => from,
        };
        loop {
            // One at a time, since the tree changes on the way.
            let Some(item) = self.tree.of(number, kind::EXTENT_DATA, next)?.next()? else { return Ok(()) };
            let (key, start, bytes) = (item.key, item.key.offset, item.data());
            if start >= to {
                return Ok(());
            }
            let (len, allocated) = lengths(bytes, self.sector);
            let end = start.saturating_add(len);
            if end > from {
                let is_whole = is_inline(bytes);
                let part = |skip: u64, len: u64| {
                    let mut part = bytes.to_vec();
                    set(&mut part, OFFSET, le64(bytes, OFFSET).saturating_add(skip));
                    set(&mut part, LEN, len);
                    part
                };
                let before = (start < from && !is_whole).then(|| part(0, from - start));
                let after = (end > to && !is_whole).then(|| part(to - start, end - to));
                let left = [&before, &after].into_iter().flatten().map(|part| lengths(part, self.sector).1).sum();
                self.tree.put(key, before.map(Into::into))?;
                if let Some(after) = after {
                    self.tree.put(Key::new(number, kind::EXTENT_DATA, to), Some(after.into()))?;
                }
                let gone = allocated.saturating_sub(left);
                self.change_inode(number, |inode| set(inode, BYTES, le64(inode, BYTES).saturating_sub(gone)))?;
            }
            let Some(after) = start.checked_add(1) else { return Ok(()) };
            next = after;
        }
    }
}
