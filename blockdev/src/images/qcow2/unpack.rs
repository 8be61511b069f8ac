//! Compressed clusters: raw deflate or Zstandard, one cluster a piece.
//!
//! Pieces are not padded, and their length is only known in sectors: behind a piece comes something else, and the last
//! one of a file may seem to go past its end. Unpacking ends when it has made a cluster.

use std::cell::RefCell;

use libdeflater::Decompressor;
use zstd_safe::{DCtx, find_frame_compressed_size, get_error_name};

use crate::{Error, ErrorKind, Result};

/// How the clusters of an image are compressed (header, byte 104).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// Raw deflate (RFC 1951), which the specification calls zlib.
    Zlib,
    /// Zstandard frames (RFC 8878).
    Zstd,
}

thread_local! {
    // Their tables are 11 and 100 KiB: not worth an allocation a cluster.
    static INFLATE: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    static ZSTD: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Unpack the piece that `packed` begins with, which makes exactly the bytes of `cluster`.
///
/// # Errors
///
/// `Damaged` when it does not.
pub(super) fn unpack(compression: Compression, packed: &[u8], cluster: &mut [u8]) -> Result<()> {
    let made = match compression {
        Compression::Zlib => INFLATE.with_borrow_mut(|inflate| {
            let made = inflate.deflate_decompress(packed, cluster);
            made.map_err(|e| Error::damaged(format!("a compressed cluster is damaged: {e}")))
        })?,
        Compression::Zstd => frames(packed, cluster)?,
    };
    if made != cluster.len() {
        return Err(Error::damaged(format!("a compressed cluster has {made} bytes, not {}", cluster.len())));
    }
    Ok(())
}

/// Frame by frame, because only whole buffers are unpacked without a window, whose size a hostile frame could choose.
fn frames(mut packed: &[u8], cluster: &mut [u8]) -> Result<usize> {
    let damaged = |code| Error::damaged(format!("a compressed cluster is damaged: {}", get_error_name(code)));
    ZSTD.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = DCtx::try_create();
        }
        let context = slot.as_mut();
        let context = context.ok_or_else(|| Error::new(ErrorKind::Limit, "no memory for a Zstandard decoder"))?;
        let mut made = 0;
        while made < cluster.len() && !packed.is_empty() {
            let length = find_frame_compressed_size(packed).map_err(damaged)?;
            let Some((frame, rest)) = packed.split_at_checked(length).filter(|_| length > 0) else { break };
            let room = cluster.get_mut(made..).unwrap_or_default();
            made += context.decompress(room, frame).map_err(damaged)?;
            packed = rest;
        }
        Ok(made)
    })
}
