//! Zstandard decompression, for compression headers of Bacula 15.

use std::cell::RefCell;

use blockdev::Error;
use zstd_safe::{DCtx, get_error_name};

use super::Failure;

/// The library's code for "destination buffer too small", part of its stable interface.
const TOO_SMALL: usize = 70;

thread_local! {
    // A context is 100 KiB: not worth an allocation a piece.
    static CONTEXT: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Decode `input` to the front of `room`; the bytes written.
pub(super) fn decode(input: &[u8], room: &mut [u8]) -> Result<usize, Failure> {
    // The library takes nothing at all for a run of no frames.
    if input.is_empty() {
        return Err(Failure::Damaged(Error::damaged("the Zstandard data of a piece is missing")));
    }
    CONTEXT.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = DCtx::try_create();
        }
        let Some(context) = slot else {
            return Err(Failure::Damaged(Error::new(
                blockdev::ErrorKind::Limit,
                "no memory for a Zstandard decoder; free some",
            )));
        };
        match context.decompress(room, input) {
            Ok(written) => Ok(written),
            Err(code) if code.wrapping_neg() == TOO_SMALL => Err(Failure::Room),
            Err(code) => Err(Failure::Damaged(Error::damaged(format!(
                "the Zstandard data of a piece is damaged: {}",
                get_error_name(code)
            )))),
        }
    })
}
