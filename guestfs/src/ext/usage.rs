//! How full a volume is.

use super::{features, superblock::Superblock, volume::Volume};
use crate::Usage;

/// Groups whose counts are added up. The superblock has a sum, too, which is that of the last unmount: it is taken where
/// there are more (8 TiB with blocks of 4 KiB), or where a group is damaged.
const GROUPS_MAX: u32 = 1 << 16;

/// How full `volume` is.
pub fn count(volume: &Volume) -> Usage {
    let sb = &volume.superblock;
    let per_cluster = u64::from(sb.cluster_size / sb.block_size);
    let (free_blocks, free_inodes) = match sb.groups {
        0..=GROUPS_MAX => groups(volume).unwrap_or(sb.free),
        _ => sb.free,
    };
    let overhead = match sb.overhead {
        0 => overhead(sb),
        clusters => u64::from(clusters).saturating_mul(per_cluster),
    };
    let total = sb.blocks.saturating_sub(overhead);
    let bytes = |blocks: u64| blocks.saturating_mul(volume.block_size());
    Usage {
        total: bytes(total),
        free: bytes(free_blocks.min(total)),
        files: Some(sb.inodes.into()),
        files_free: Some(free_inodes.min(sb.inodes).into()),
    }
}

/// Blocks and inodes that are free in all groups.
fn groups(volume: &Volume) -> Option<(u64, u32)> {
    let sb = &volume.superblock;
    let per_cluster = u64::from(sb.cluster_size / sb.block_size);
    let (mut blocks, mut inodes) = (0_u64, 0_u32);
    for group in 0..sb.groups {
        let group = volume.group(group).ok()?;
        blocks = blocks.saturating_add(u64::from(group.free_clusters) * per_cluster);
        inodes = inodes.saturating_add(group.free_inodes);
    }
    Some((blocks, inodes))
}

/// Blocks that hold nothing but what every volume of this shape has: superblocks, descriptors, bitmaps, inode tables.
fn overhead(sb: &Superblock) -> u64 {
    let table = (u64::from(sb.inodes_per_group) * u64::from(sb.inode_size)).div_ceil(sb.block_size.into());
    let per_block = sb.block_size / sb.descriptor_size;
    let descriptors = match sb.features.incompatible(features::META_BG) {
        true => 1,
        false => u64::from(sb.groups.div_ceil(per_block)) + u64::from(sb.reserved_descriptor_blocks),
    };
    let groups = sb.groups.min(GROUPS_MAX);
    let copies = (0..groups).filter(|group| sb.has_superblock(*group)).count() as u64;
    sb.first_data_block + u64::from(sb.groups) * (table + 2) + copies * (1 + descriptors)
}
