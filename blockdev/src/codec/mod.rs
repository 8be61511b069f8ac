//! Decompression of whole units, for every format that packs in units of a bounded size: disk images, filesystems,
//! pieces of backup files.
//!
//! The decoders write to memory that the caller gives, and no more than that, so hostile input costs nothing but time in
//! proportion to its length.

pub mod lzo;

use std::cell::RefCell;

use libdeflater::Decompressor;
use zstd_safe::{DCtx, find_frame_compressed_size, get_error_name};

use crate::{Error, ErrorKind, Result};

thread_local! {
    // Their tables are 11 and 100 KiB: not worth an allocation a unit.
    static INFLATE: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    static ZSTD: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Unpack the raw deflate stream (RFC 1951) that `packed` begins with to the front of `out`; the bytes written.
///
/// # Errors
///
/// `Damaged` when it is none, or makes more than there is room for.
pub fn deflate(packed: &[u8], out: &mut [u8]) -> Result<usize> {
    INFLATE.with_borrow_mut(|inflate| inflate.deflate_decompress(packed, out)).map_err(damaged)
}

/// Unpack the zlib stream (RFC 1950) that `packed` begins with to the front of `out`; the bytes written. Its Adler-32 is
/// checked.
///
/// # Errors
///
/// As [`deflate`].
pub fn zlib(packed: &[u8], out: &mut [u8]) -> Result<usize> {
    INFLATE.with_borrow_mut(|inflate| inflate.zlib_decompress(packed, out)).map_err(damaged)
}

/// Unpack the Zstandard frames (RFC 8878) that `packed` begins with to the front of `out`, until it is full; the bytes
/// written. What follows the last frame that is needed is not looked at.
///
/// # Errors
///
/// `Damaged` when a frame is, or makes more than there is room for.
pub fn zstd(mut packed: &[u8], out: &mut [u8]) -> Result<usize> {
    let mut made = 0;
    while made < out.len() && !packed.is_empty() {
        let (length, more) = zstd_frame(packed, out.get_mut(made..).unwrap_or_default())?;
        packed = packed.get(length..).unwrap_or_default();
        made += more;
    }
    Ok(made)
}

/// Unpack the one Zstandard frame that `packed` begins with to the front of `out`: its length, which is not 0, and the
/// bytes written.
///
/// # Errors
///
/// As [`zstd`].
pub fn zstd_frame(packed: &[u8], out: &mut [u8]) -> Result<(usize, usize)> {
    ZSTD.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = DCtx::try_create();
        }
        let context = slot.as_mut();
        let context = context.ok_or_else(|| Error::new(ErrorKind::Limit, "no memory for a Zstandard decoder"))?;
        // Only whole frames are unpacked without a window, whose size a hostile frame could choose.
        let length = find_frame_compressed_size(packed).map_err(|code| damaged(get_error_name(code)))?;
        let frame = packed.get(..length).filter(|frame| !frame.is_empty()).ok_or_else(|| damaged("no frame"))?;
        let made = context.decompress(out, frame).map_err(|code| damaged(get_error_name(code)))?;
        Ok((length, made))
    })
}

fn damaged(why: impl std::fmt::Display) -> Error {
    Error::damaged(format!("compressed data is damaged: {why}"))
}
