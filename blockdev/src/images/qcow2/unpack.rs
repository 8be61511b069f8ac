//! Compressed clusters: raw deflate or Zstandard, one cluster a piece.
//!
//! Pieces are not padded, and their length is only known in sectors: behind a piece comes something else, and the last
//! one of a file may seem to go past its end. Unpacking ends when it has made a cluster.

use crate::{Error, Result, codec};

/// How the clusters of an image are compressed (header, byte 104).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// Raw deflate (RFC 1951), which the specification calls zlib.
    Zlib,
    /// Zstandard frames (RFC 8878).
    Zstd,
}

/// Unpack the piece that `packed` begins with, which makes exactly the bytes of `cluster`.
///
/// # Errors
///
/// `Damaged` when it does not.
pub(super) fn unpack(compression: Compression, packed: &[u8], cluster: &mut [u8]) -> Result<()> {
    let made = match compression {
        Compression::Zlib => codec::deflate(packed, cluster)?,
        Compression::Zstd => codec::zstd(packed, cluster)?,
    };
    if made != cluster.len() {
        return Err(Error::damaged(format!("a compressed cluster has {made} bytes, not {}", cluster.len())));
    }
    Ok(())
}
