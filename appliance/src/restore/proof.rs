//! Whether a restored disk is what was backed up: every cluster that a file of its chain has, read back from the new disk and
//! compared with the digest that was taken when it was read from the machine.

use blockdev::{BlockDevice, Error, Result};

use super::point::RestoredDisk;
use crate::backup::digests::{CLUSTER, digest, read_cluster};

/// Compares `device` with what `disk` was, and says how many clusters that were.
///
/// # Errors
///
/// `Damaged` when one differs; when one cannot be read.
pub fn prove(device: &dyn BlockDevice, disk: &RestoredDisk) -> Result<u64> {
    let mut compared = 0;
    for (number, digests) in disk.digests.iter().enumerate() {
        let newer = disk.digests.get(..number).unwrap_or_default();
        for rank in 0..digests.clusters() {
            let Some(cluster) = digests.nth(rank) else { continue };
            // What an older file had at the end of a disk that was larger then, and what a newer one has.
            if cluster.saturating_mul(CLUSTER) >= disk.size || newer.iter().any(|newer| newer.has(cluster)) {
                continue;
            }
            let Some(wanted) = digests.get(cluster)? else { continue };
            let mut bytes = read_cluster(device, cluster)?;
            let end = disk.size.saturating_sub(cluster * CLUSTER);
            bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
            if digest(&bytes) != wanted {
                return Err(Error::damaged(format!(
                    "disk {}: 64 KiB at byte {} are not what was backed up (as {} has it): look at the volumes with \
                     `revenant verify`",
                    disk.name,
                    cluster * CLUSTER,
                    disk.file
                )));
            }
            compared += 1;
        }
    }
    Ok(compared)
}
