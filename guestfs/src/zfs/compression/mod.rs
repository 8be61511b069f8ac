//! How blocks are packed. Each unpacks to exactly the size that the pointer to it says, which bounds what is made.

mod lzjb;
mod zle;

use std::cell::RefCell;

use blockdev::{Error, ErrorKind, Result, fields::be32};
use libdeflater::Decompressor;
use zstd_safe::{DCtx, get_error_name};

// Compression functions (`zio_compress`).
/// The block is stored as it is.
pub const OFF: u8 = 2;
const LZJB: u8 = 3;
const EMPTY: u8 = 4;
const GZIP_1: u8 = 5;
const GZIP_9: u8 = 13;
const ZLE: u8 = 14;
const LZ4: u8 = 15;
const ZSTD: u8 = 16;

thread_local! {
    // Their tables are 11 and 100 KiB: not worth an allocation a block.
    static INFLATE: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    static UNZSTD: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Unpacks `packed`, which is changed by that, so that it fills `block`.
///
/// # Errors
///
/// `Damaged` when it does not; `Unsupported` when the function `kind` is not known.
pub fn unpack(kind: u8, packed: &mut [u8], block: &mut [u8]) -> Result<()> {
    let wanted = block.len();
    let (name, made) = match kind {
        OFF => {
            let same = packed.get(..wanted);
            block.copy_from_slice(same.ok_or_else(|| Error::damaged("a block is smaller than it is stored"))?);
            return Ok(());
        }
        EMPTY => {
            block.fill(0);
            return Ok(());
        }
        LZJB => ("lzjb", lzjb::unpack(packed, block)),
        GZIP_1..=GZIP_9 => ("gzip", INFLATE.with_borrow_mut(|inflate| inflate.zlib_decompress(packed, block).ok())),
        ZLE => ("zle", zle::unpack(packed, block)),
        LZ4 => ("lz4", framed(packed, 4).and_then(|frame| lz4_flex::block::decompress_into(frame, block).ok())),
        ZSTD => ("zstd", zstd(packed, block)?),
        _ => return Err(Error::unsupported(format!("compression function {kind} is not known here"))),
    };
    if made == Some(wanted) { Ok(()) } else { Err(Error::damaged(format!("a block does not unpack by {name}"))) }
}

/// What lies behind a big-endian length and, `header` bytes from the start, has that length.
fn framed(packed: &mut [u8], header: usize) -> Option<&mut [u8]> {
    let len = be32(packed, 0) as usize;
    packed.get_mut(header..)?.get_mut(..len)
}

/// A Zstandard frame without its magic number (RFC 8878), behind its length and 4 bytes that tell version and level.
fn zstd(packed: &mut [u8], block: &mut [u8]) -> Result<Option<usize>> {
    const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
    let len = be32(packed, 0) as usize;
    // The magic number goes where version and level are.
    let Some(frame) = packed.get_mut(4..).and_then(|rest| rest.get_mut(..len.saturating_add(MAGIC.len()))) else {
        return Ok(None);
    };
    frame[..MAGIC.len()].copy_from_slice(&MAGIC);
    UNZSTD.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = DCtx::try_create();
        }
        let context = slot.as_mut();
        let context = context.ok_or_else(|| Error::new(ErrorKind::Limit, "no memory for a Zstandard decoder"))?;
        // From buffer to buffer: no window is allocated, whose size a hostile frame could choose.
        let made = context.decompress(block, frame);
        made.map(Some)
            .map_err(|code| Error::damaged(format!("a block does not unpack by zstd: {}", get_error_name(code))))
    })
}
