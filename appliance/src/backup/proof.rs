//! What the tracker calls unchanged, compared with what it was.
//!
//! A tracker that forgets a change makes a backup wrong, and nobody notices until the restore. So every delta is tried: some
//! hundred clusters that are said to be unchanged are read and compared with their digests at the point that the delta is
//! on top of. A whole disk is read anyway, and proves all of them.

use std::{ops::Range, sync::Arc};

use blockdev::{BlockDevice, Error, Result};

use super::digests::{CLUSTER, Digest, DiskDigests, digest, of_zeros, read_cluster};

/// Clusters that are looked at for a delta.
pub const SAMPLES: usize = 512;

/// What a disk was at a point, in digests.
pub struct Past {
    /// Those of the point, and of the points before it down to a whole one; the newest first.
    layers: Vec<Arc<DiskDigests>>,
}

impl Past {
    pub fn new(layers: Vec<Arc<DiskDigests>>) -> Self {
        Self { layers }
    }

    /// The digest of `cluster` then.
    ///
    /// # Errors
    ///
    /// When a file of digests cannot be read.
    pub fn digest(&self, cluster: u64) -> Result<Digest> {
        for layer in &self.layers {
            if layer.has(cluster) {
                let missing = || Error::damaged("a file of digests is not complete");
                return layer.get(cluster)?.ok_or_else(missing);
            }
        }
        Ok(of_zeros())
    }

    /// The clusters of the disk then.
    fn clusters(&self) -> u64 {
        self.layers.first().map_or(0, |layer| layer.size.div_ceil(CLUSTER))
    }

    /// A cluster that may hold data: there is nothing to be learnt from most of a disk that is empty.
    fn any(&self) -> u64 {
        let layer = fastrand::usize(..=self.layers.len());
        let of = |layer: &Arc<DiskDigests>| {
            layer.clusters().checked_sub(1).and_then(|last| layer.nth(fastrand::u64(..=last)))
        };
        self.layers.get(layer).and_then(of).unwrap_or_else(|| fastrand::u64(..self.clusters().max(1)))
    }
}

/// Looks at `samples` clusters of `device` outside of `changed` (clusters, ascending); how many there were to be seen.
///
/// # Errors
///
/// `Damaged` when one has changed; when it cannot be read.
pub fn sample(device: &dyn BlockDevice, changed: &[Range<u64>], past: &Past, samples: usize) -> Result<usize> {
    let within = device.size() / CLUSTER;
    let mut seen = 0;
    // A disk of which nearly all has changed has little to be looked at.
    for _ in 0..samples.saturating_mul(4) {
        let cluster = past.any();
        let index = changed.partition_point(|run| run.end <= cluster);
        let is_changed = changed.get(index).is_some_and(|run| run.contains(&cluster));
        if is_changed || cluster >= within.min(past.clusters()) {
            continue;
        }
        if digest(&read_cluster(device, cluster)?) != past.digest(cluster)? {
            return Err(wrong(cluster));
        }
        seen += 1;
        if seen == samples {
            break;
        }
    }
    Ok(seen)
}

/// Compares what was read of a whole disk, in `now`, with what it was, outside of `changed`; how many clusters.
///
/// # Errors
///
/// As [`sample`].
pub fn all(now: &DiskDigests, changed: &[Range<u64>], past: &Past) -> Result<u64> {
    let clusters = (now.size / CLUSTER).min(past.clusters());
    let mut next = changed.iter().peekable();
    let mut proven = 0;
    for cluster in 0..clusters {
        while next.peek().is_some_and(|run| run.end <= cluster) {
            next.next();
        }
        if next.peek().is_some_and(|run| run.contains(&cluster)) {
            continue;
        }
        let own = if now.has(cluster) { now.get(cluster)? } else { Some(of_zeros()) };
        if own != Some(past.digest(cluster)?) {
            return Err(wrong(cluster));
        }
        proven += 1;
    }
    Ok(proven)
}

fn wrong(cluster: u64) -> Error {
    Error::damaged(format!(
        "the hypervisor's change tracking is wrong: byte {} and what follows has changed, and it does not say so",
        cluster.saturating_mul(CLUSTER)
    ))
}
