//! The boot sector: how large sectors, clusters and file records are, and where the master file table begins.
//!
//! A copy of it is in the last sector of the volume, behind the last cluster.

use blockdev::{
    BlockDevice, Error, Result,
    fields::{le16, le64, read, slice},
};

/// The largest cluster there is.
const CLUSTER_MAX: u64 = 2 << 20;

/// What the boot sector says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a cluster are two to the power of this.
    pub cluster_shift: u32,
    /// Bytes of a file record.
    pub record: u32,
    /// Clusters of the volume.
    pub clusters: u64,
    /// First cluster of `$MFT`.
    pub mft: u64,
    /// First cluster of `$MFTMirr`.
    pub mirror: u64,
    /// Serial number.
    pub serial: u64,
}

impl Geometry {
    /// Bytes of a cluster.
    pub const fn cluster(&self) -> u64 {
        1 << self.cluster_shift
    }

    /// Where cluster `lcn` begins, which is one of the volume.
    pub const fn byte_of(&self, lcn: u64) -> u64 {
        lcn << self.cluster_shift
    }

    /// Where the copy of file record `number` is, which is one of the first four.
    pub fn mirror_at(&self, number: u64) -> Result<u64> {
        if self.mirror >= self.clusters {
            return Err(Error::damaged("NTFS: $MFTMirr is behind the end of the volume"));
        }
        Ok(self.byte_of(self.mirror) + number * u64::from(self.record))
    }
}

/// What the boot sector of `device` says.
pub fn first(device: &dyn BlockDevice) -> Result<Geometry> {
    parse(&read(device, 0, 512)?)
}

/// What the copies of the boot sector say, where there are some. They are behind the last cluster, whose sector size is
/// not known without them.
pub fn copies(device: &dyn BlockDevice) -> impl Iterator<Item = Geometry> {
    let size = device.size();
    let places = [512, 1024, 2048, 4096].map(|sector: u64| size.checked_sub(sector));
    places.into_iter().flatten().filter_map(|at| parse(&read(device, at, 512).ok()?).ok())
}

fn parse(head: &[u8]) -> Result<Geometry> {
    let wrong = |what: &str, value: u64| Err(Error::damaged(format!("NTFS: {what} {value} in the boot sector")));
    if slice(head, 3, 8) != b"NTFS    " {
        return Err(Error::unsupported("there is no NTFS boot sector"));
    }
    let sector = u64::from(le16(head, 11));
    if !sector.is_power_of_two() || !(256..=4096).contains(&sector) {
        return wrong("a sector size of", sector);
    }
    // Above 0x80 both are powers of two, counted downwards.
    let byte = |at: usize| head.get(at).copied().unwrap_or(0);
    let sectors_per_cluster = match byte(13) {
        n @ 0..=0x80 => u64::from(n),
        n => 1_u64.checked_shl(u32::from(n.wrapping_neg())).unwrap_or(0),
    };
    let cluster = sector.saturating_mul(sectors_per_cluster);
    if !cluster.is_power_of_two() || cluster > CLUSTER_MAX {
        return wrong("a cluster size of", cluster);
    }
    let record = match byte(64).cast_signed() {
        n @ 0.. => cluster * u64::from(n.unsigned_abs()),
        n => 1_u64.checked_shl(u32::from(n.unsigned_abs())).unwrap_or(0),
    };
    if !record.is_power_of_two() || !(512..=65536).contains(&record) {
        return wrong("a file record size of", record);
    }
    let clusters = le64(head, 40) / sectors_per_cluster;
    let (mft, mirror) = (le64(head, 48), le64(head, 56));
    let cluster_shift = cluster.trailing_zeros();
    if clusters == 0 || clusters > (1 << 62) >> cluster_shift {
        return wrong("a number of clusters of", clusters);
    }
    if mft >= clusters {
        return wrong("a master file table behind the end, at cluster", mft);
    }
    Ok(Geometry { cluster_shift, record: record as u32, clusters, mft, mirror, serial: le64(head, 72) })
}
