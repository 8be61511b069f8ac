//! A volume: its superblock, and its metadata by number.

use std::sync::Arc;

use blockdev::{
    BlockDevice, Error, ReadAt, Result,
    fields::{le16, le32, slice},
};

use super::{
    checksum::{self, crc16},
    features,
    inode::Inode,
    superblock::Superblock,
};
use crate::blocks::Blocks;

/// Bytes of metadata that are kept.
const KEPT_MAX: u64 = 32 << 20;

/// Bytes of an inode table that are read at once: files of one directory mostly lie together.
const TABLE_PIECE: u64 = 32 << 10;

/// The inode of the topmost directory.
pub const ROOT: u32 = 2;

/// A volume.
pub struct Volume {
    /// Its superblock.
    pub superblock: Superblock,
    blocks: Blocks,
    files: [Arc<dyn ReadAt>; 1],
}

/// What the descriptor of a group says.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// First block of its inode table.
    pub inode_table: u64,
    /// Free clusters.
    pub free_clusters: u32,
    /// Free inodes.
    pub free_inodes: u32,
}

impl Volume {
    /// The volume on `device`.
    pub fn new(device: Arc<dyn BlockDevice>, superblock: Superblock) -> Self {
        let files = [Arc::clone(&device) as Arc<dyn ReadAt>];
        Self { superblock, blocks: Blocks::new(device, KEPT_MAX), files }
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        self.blocks.device()
    }

    /// The device as the only file of a layer.
    pub fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u64 {
        self.superblock.block_size.into()
    }

    /// Whether the `count` blocks from `start` on can hold content.
    pub fn has_blocks(&self, start: u64, count: u64) -> bool {
        let end = start.checked_add(count);
        start > self.superblock.first_data_block && end.is_some_and(|end| end <= self.superblock.blocks)
    }

    /// The block of metadata `number`, which `check` finds sound when it is read; see [`Blocks::get`].
    ///
    /// # Errors
    ///
    /// `Damaged` when there is no such block; what `check` says; what reading gives.
    pub fn block(&self, number: u64, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<Arc<[u8]>> {
        if number >= self.superblock.blocks {
            return Err(Error::damaged(format!("block {number} lies behind the last one of the filesystem")));
        }
        self.blocks.get(number * self.block_size(), self.superblock.block_size as usize, check)
    }

    /// The descriptor of `group`: of the first copy, or of that in another group when it is damaged.
    ///
    /// # Errors
    ///
    /// When neither is sound.
    pub fn group(&self, group: u32) -> Result<Group> {
        let mut copies = [Some(self.descriptors(group)), self.descriptors_copy(group)];
        if self.superblock.is_copy {
            // What lies behind a damaged superblock may be damaged in ways that no checksum tells.
            copies.reverse();
        }
        let mut wrong = None;
        for block in copies.into_iter().flatten() {
            match self.group_from(group, block) {
                Err(e) => wrong = wrong.or(Some(e)),
                found => return found,
            }
        }
        Err(wrong.unwrap_or_else(|| Error::damaged(format!("there is no descriptor of group {group}"))))
    }

    /// The descriptor of `group` in the block `number`.
    fn group_from(&self, group: u32, number: u64) -> Result<Group> {
        let sb = &self.superblock;
        let block = self.block(number, |_| Ok(()))?;
        let size = sb.descriptor_size as usize;
        let bytes = slice(&block, (group % (sb.block_size / sb.descriptor_size)) as usize * size, size);
        let (stored, le_group) = (le16(bytes, 30), group.to_le_bytes());
        let (head, tail) = (slice(bytes, 0, 30), slice(bytes, 32, size));
        let what = || format!("the descriptor of group {group} in block {number}");
        if sb.has_checksums() {
            let sum = sb.seed.add(&le_group).add(head).add(&[0; 2]).add(tail);
            checksum::expect(stored, sum.value() as u16, what())?;
        } else if sb.features.read_only(features::GDT_CSUM) {
            checksum::expect(stored, crc16(&[&sb.uuid, &le_group, head, tail]), what())?;
        }
        let is_wide = sb.features.incompatible(features::BIT64);
        let high32 = |at: usize| if is_wide { u64::from(le32(bytes, at)) << 32 } else { 0 };
        let high16 = |at: usize| if is_wide { u32::from(le16(bytes, at)) << 16 } else { 0 };
        let inode_table = u64::from(le32(bytes, 8)) | high32(40);
        let table_blocks = (u64::from(sb.inodes_per_group) * u64::from(sb.inode_size)).div_ceil(self.block_size());
        if !self.has_blocks(inode_table, table_blocks) {
            return Err(Error::damaged(format!("{} has the inode table at block {inode_table}", what())));
        }
        Ok(Group {
            inode_table,
            free_clusters: u32::from(le16(bytes, 12)) | high16(44),
            free_inodes: u32::from(le16(bytes, 14)) | high16(46),
        })
    }

    /// The block with the descriptor of `group`.
    fn descriptors(&self, group: u32) -> u64 {
        let sb = &self.superblock;
        let per_block = sb.block_size / sb.descriptor_size;
        let index = group / per_block;
        if !sb.features.incompatible(features::META_BG) || index < sb.first_meta_bg {
            return u64::from(1024 / sb.block_size) + 1 + u64::from(index);
        }
        // Each block of descriptors lies in the first of the groups that it describes.
        let home = index * per_block;
        let mut skip = u64::from(sb.has_superblock(home));
        if home == 0 && sb.block_size == 1024 && sb.first_data_block == 0 {
            skip += 1;
        }
        sb.group_start(home) + skip
    }

    /// The block with a copy of it.
    fn descriptors_copy(&self, group: u32) -> Option<u64> {
        let sb = &self.superblock;
        let per_block = sb.block_size / sb.descriptor_size;
        let index = group / per_block;
        if sb.features.incompatible(features::META_BG) && index >= sb.first_meta_bg {
            // The second and the last of the groups that a block describes have a copy of it.
            let second = (index * per_block).checked_add(1)?;
            return Some(sb.group_start(second) + u64::from(sb.has_superblock(second)));
        }
        let backup = (1..sb.groups.min(64)).find(|group| sb.has_superblock(*group))?;
        Some(sb.group_start(backup) + 1 + u64::from(index))
    }

    /// Inode `number`, whatever it is for.
    ///
    /// # Errors
    ///
    /// When there is none or it is damaged.
    pub fn inode(&self, number: u32) -> Result<Inode> {
        let sb = &self.superblock;
        let index = number.checked_sub(1).filter(|_| number <= sb.inodes);
        let index = index.ok_or_else(|| Error::not_found(format!("there is no inode {number}")))?;
        let group = self.group(index / sb.inodes_per_group)?;
        let at = u64::from(index % sb.inodes_per_group) * u64::from(sb.inode_size);
        let table_len = u64::from(sb.inodes_per_group) * u64::from(sb.inode_size);
        // Blocks are powers of two, and so are inodes: none is cut.
        let piece = TABLE_PIECE.max(self.block_size());
        let start = at - at % piece;
        let len = piece.min(table_len - start) as usize;
        let table = self.blocks.get(group.inode_table * self.block_size() + start, len, |_| Ok(()))?;
        Inode::parse(sb, number, table, (at - start) as usize)
    }

    /// Inode `number`, which is to be a file that a name may have.
    ///
    /// # Errors
    ///
    /// When there is none, it is reserved, was deleted or is damaged.
    pub fn file(&self, number: u32) -> Result<Inode> {
        if number < self.superblock.first_inode && number != ROOT {
            return Err(Error::not_found(format!("inode {number} is reserved and no file")));
        }
        let inode = self.inode(number)?;
        if inode.links() == 0 {
            return Err(Error::not_found(format!("inode {number} was deleted")));
        }
        if inode.is(super::inode::VALUE) {
            return Err(inode.damaged(format_args!("it is the value of an attribute and no file")));
        }
        Ok(inode)
    }
}
