//! How full the volume is: `$Bitmap` has a bit for each cluster.

use std::sync::Arc;

use blockdev::{Error, ReadAt, Result};

use super::{
    file::File,
    mft::Mft,
    record::{Reference, kind},
};
use crate::Usage;

/// Number of the file record of `$Bitmap`.
const BITMAP: u64 = 6;

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// Counts what is free on the volume of `mft`.
pub fn count(mft: &Arc<Mft>) -> Result<Usage> {
    let geometry = &mft.clusters.geometry;
    let file = File::open(mft, Reference(BITMAP))?;
    let bitmap = file.value(kind::DATA, &[])?.ok_or_else(|| file.told(Error::damaged("$Bitmap has no content")))?;
    let bitmap = bitmap.reader(mft)?;
    let (mut used, mut at, end) = (0, 0, geometry.clusters.div_ceil(8));
    let mut piece = vec![0; PIECE];
    while at < end {
        let n = (end - at).min(PIECE as u64) as usize;
        let bytes = piece.get_mut(..n).unwrap_or_default();
        if bitmap.read_at(bytes, at)? < n {
            return Err(file.told(Error::damaged("$Bitmap is too short for the volume")));
        }
        at += n as u64;
        // The bits behind the last cluster stand for nothing.
        let behind = (8 - geometry.clusters % 8) % 8;
        if let (true, Some(last)) = (at == end, bytes.last_mut()) {
            *last &= 0xff >> behind;
        }
        used += bytes.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
    }
    let bytes = |clusters: u64| clusters << geometry.cluster_shift;
    let free = bytes(geometry.clusters.saturating_sub(used));
    Ok(Usage { total: bytes(geometry.clusters), free, files: None, files_free: None })
}
