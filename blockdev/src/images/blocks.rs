//! What the formats with large blocks (VHD, VHDX) have in common: bytes that have to lie within the file, bitmaps with one
//! bit a sector, and the fields of headers.

use super::{
    layer::{Place, Run},
    tables::Tables,
};
use crate::{Error, Result};

/// `len` bytes at `at` of file number 0, which has `file_size` bytes; fewer where the file ends before.
///
/// # Errors
///
/// `Damaged` when none of them is in the file.
pub fn stored(at: u64, len: u64, file_size: u64) -> Result<Run> {
    if at >= file_size {
        return Err(Error::damaged(format!(
            "a part of the disk lies at byte {at}, and the image file ends at {file_size}: it was cut off, take another copy"
        )));
    }
    Ok(Run { len: len.min(file_size - at), place: Place::Stored { file: 0, offset: at } })
}

/// The `N` bytes at `at` of a structure that was read whole; zeros where it does not reach that far.
#[must_use]
pub fn field<const N: usize>(structure: &[u8], at: usize) -> [u8; N] {
    structure.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

/// Names and paths in UTF-16, up to the first NUL; `unit` tells the byte order.
#[must_use]
pub fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let (units, _) = bytes.as_chunks::<2>();
    let units = units.iter().map(|pair| unit(*pair)).take_while(|u| *u != 0);
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Which bit of a byte stands for its first sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitOrder {
    /// The highest (VHD).
    HighFirst,
    /// The lowest (VHDX).
    LowFirst,
}

/// Bytes of a bitmap that are looked at once. Bitmaps are padded to more than that.
const CHUNK: usize = 64;
const CHUNK_BITS: u64 = CHUNK as u64 * 8;

/// Bit number `index` of the bitmap at byte `bitmap`, and how many bits from it on, at most `max`, are like it.
///
/// # Errors
///
/// When the bitmap cannot be read.
pub fn equal_bits(tables: &Tables, order: BitOrder, bitmap: u64, index: u64, max: u64) -> Result<(bool, u64)> {
    let mut first = None;
    let mut count = 0;
    while count < max {
        let at = index.saturating_add(count);
        let chunk: [u8; CHUNK] = tables.bytes(bitmap.saturating_add(at / CHUNK_BITS * CHUNK as u64))?;
        let (words, _) = chunk.as_chunks::<8>();
        let mut skip = at % CHUNK_BITS;
        for word in words {
            if skip >= 64 {
                skip -= 64;
                continue;
            }
            // The bit of the first sector is the lowest from here on.
            let word = match order {
                BitOrder::HighFirst => u64::from_be_bytes(*word).reverse_bits(),
                BitOrder::LowFirst => u64::from_le_bytes(*word),
            } >> skip;
            let set = *first.get_or_insert(word & 1 == 1);
            let like = u64::from(if set { word.trailing_ones() } else { word.trailing_zeros() }).min(64 - skip);
            count += like;
            if like < 64 - skip || count >= max {
                return Ok((set, count.min(max)));
            }
            skip = 0;
        }
    }
    Ok((first.unwrap_or_default(), count))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Bit by bit, as the formats define it.
    fn plain(bytes: &[u8], order: BitOrder, index: u64, max: u64) -> (bool, u64) {
        let bit = |i: u64| {
            let byte = bytes[(i / 8) as usize];
            let shift = if order == BitOrder::HighFirst { 7 - i % 8 } else { i % 8 };
            byte >> shift & 1 == 1
        };
        (bit(index), (index..index + max).take_while(|i| bit(*i) == bit(index)).count() as u64)
    }

    #[test]
    fn equal_bits_are_counted_across_words_and_chunks() {
        let mut bytes = vec![0_u8; 4096];
        // Long and short runs, with borders at, before and behind those of bytes, words and chunks.
        bytes[10..300].fill(0xff);
        bytes[300] = 0b1010_0110;
        bytes[1000] = 1;
        bytes[2000..2064].fill(0xff);
        bytes[2063] = 0x7f;
        let tables = Tables::new(Arc::new(bytes.clone()), 1 << 20);
        for order in [BitOrder::HighFirst, BitOrder::LowFirst] {
            for index in (0..31_000).step_by(7).chain(2390..2420) {
                for max in [1, 63, 64, 65, 512, 1768] {
                    let found = equal_bits(&tables, order, 0, index, max).unwrap();
                    assert_eq!(found, plain(&bytes, order, index, max), "{order:?} {index} {max}");
                }
            }
        }
    }
}
