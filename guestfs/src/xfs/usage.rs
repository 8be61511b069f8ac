//! How full a volume is: by the superblock after a clean unmount, otherwise by the headers of its allocation groups, as
//! the kernel counts when it mounts one.

use blockdev::{
    Error, Result,
    fields::{be32, read, slice},
};

use super::{check, volume::Volume};
use crate::Usage;

/// Blocks and inodes: free blocks, inodes, free ones of them.
struct Counts {
    free: u64,
    inodes: u64,
    inodes_free: u64,
}

/// How full `volume` is; `clean` when the superblock's counters can be believed.
///
/// # Errors
///
/// When an allocation group cannot be read.
pub fn usage(volume: &Volume, clean: bool) -> Result<Usage> {
    let sb = &volume.sb;
    let counts = if clean || !sb.lazy_counters {
        Counts { free: sb.free_blocks, inodes: sb.inodes.0, inodes_free: sb.inodes.1 }
    } else {
        by_groups(volume)?
    };
    let log = if sb.log_start == 0 { 0 } else { u64::from(sb.log_blocks) };
    let total = sb.blocks.saturating_sub(log);
    let free = counts.free.min(total);
    // Inodes are made in free space, as long as they have not more of the volume than they may.
    let per_block = sb.block_log - sb.inode_log;
    let limit = match sb.inodes_percent {
        0 => u64::MAX,
        percent => (sb.blocks / 100).saturating_mul(percent.into()) << per_block,
    };
    let files = counts.inodes.saturating_add(free << per_block).min(limit.max(counts.inodes));
    let used = counts.inodes.saturating_sub(counts.inodes_free);
    Ok(Usage {
        total: total << sb.block_log,
        free: free << sb.block_log,
        files: Some(files),
        files_free: Some(files.saturating_sub(used)),
    })
}

/// The sums over all groups: the second sector of each tells its free space, the third its inodes.
fn by_groups(volume: &Volume) -> Result<Counts> {
    let sb = &volume.sb;
    let mut counts = Counts { free: 0, inodes: 0, inodes_free: 0 };
    let len = sb.sector_len as usize;
    for group in 0..sb.groups {
        let sectors = read(volume.device().as_ref(), sb.group_start(group) + len as u64, 2 * len)?;
        for (fields, at) in [(&check::AGF, 0), (&check::AGI, len)] {
            let sector = slice(&sectors, at, len);
            let sound = fields.is_in(sector)
                && (!sb.v5 || check::sum_matches(sector, fields.sum) && slice(sector, fields.uuid, 16) == sb.meta_uuid);
            if !sound {
                return Err(Error::damaged(format!("the {} of allocation group {group} is damaged", fields.name)));
            }
        }
        // Free blocks, those kept for the trees of free space, and those within them.
        let agf = |at| u64::from(be32(&sectors, at));
        counts.free = counts.free.saturating_add(agf(52) + agf(48) + agf(60));
        counts.inodes = counts.inodes.saturating_add(u64::from(be32(&sectors, len + 16)));
        counts.inodes_free = counts.inodes_free.saturating_add(u64::from(be32(&sectors, len + 28)));
    }
    Ok(counts)
}
