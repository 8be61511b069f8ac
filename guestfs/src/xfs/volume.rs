//! A volume that is read: its geometry, its metadata blocks, and what is done with both everywhere.

use std::sync::Arc;

use blockdev::{BlockDevice, Error, ReadAt, Result, fields};

use super::{
    inode::Inode,
    map::{Map, Target},
    superblock::Superblock,
};
use crate::blocks::Blocks;

/// Metadata blocks that are kept, in bytes.
const KEPT: u64 = 16 << 20;

/// Inodes that are read at once: a cluster, as the kernel has it.
const CLUSTER: u64 = 32;

/// A volume.
pub struct Volume {
    /// Its geometry.
    pub sb: Superblock,
    /// Its metadata blocks.
    pub blocks: Blocks,
}

impl Volume {
    /// That on `device`, whose superblock is `sb`.
    pub fn new(sb: Superblock, device: Arc<dyn BlockDevice>) -> Self {
        Self { sb, blocks: Blocks::new(device, KEPT) }
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        self.blocks.device()
    }

    /// Inode `number`.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none; `Damaged` when it contradicts itself.
    pub fn inode(&self, number: u64) -> Result<Inode> {
        let (place, group) = self.sb.inode_place(number)?;
        // Aligned within its group, as clusters are; the rest of the cluster may be anything, and is not looked at.
        let len = (CLUSTER << self.sb.inode_log).max(self.sb.block_len());
        let start = group.start + (place - group.start) / len * len;
        let end = (start + len).min(group.end).min(self.device().size());
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        let cluster = self.blocks.get(start, len, |_| Ok(()))?;
        Inode::parse(&self.sb, number, cluster, usize::try_from(place - start).unwrap_or(usize::MAX))
    }

    /// The `len` bytes from block `block` of the fork `map` on, wherever their blocks are; `None` where the first of
    /// them is in a hole. `check` sees them with the byte of the volume where they begin.
    ///
    /// # Errors
    ///
    /// What `check` says; when they cannot be read.
    pub fn mapped(
        &self,
        map: &Map,
        block: u64,
        len: usize,
        check: impl FnOnce(&[u8], u64) -> Result<()>,
    ) -> Result<Option<Arc<[u8]>>> {
        let count = len as u64 >> self.sb.block_log;
        let first = map.at(self, block)?;
        let Target::Stored(place) = first.target else { return Ok(None) };
        if first.len >= count {
            return self.blocks.get(place, len, |bytes| check(bytes, place)).map(Some);
        }
        // A directory block of several blocks that do not lie together.
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = block.saturating_add(bytes.len() as u64 >> self.sb.block_log);
            let piece = map.at(self, at)?;
            let Target::Stored(place) = piece.target else {
                return Err(Error::damaged(format!("inode {}: no block {at} in the middle of others", map.owner())));
            };
            let piece_len = (len - bytes.len()).min(usize::try_from(piece.len << self.sb.block_log).unwrap_or(len));
            let read = fields::read(self.device().as_ref(), place, piece_len)?;
            bytes.extend_from_slice(&read);
            if read.len() < piece_len {
                return Err(Error::damaged(format!("byte {place} lies behind the end of the volume")));
            }
        }
        check(&bytes, place)?;
        Ok(Some(bytes.into()))
    }
}
