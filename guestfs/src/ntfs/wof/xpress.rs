//! XPRESS with Huffman codes ([MS-XCA] 2.2), for chunks of at most 64 KiB: lengths of 512 codes in 4 bits each, and then
//! symbols. The first 256 are bytes; the others have the length of a reference and the number of bits of its distance.

use super::{super::lz, bits::Bits, huffman::Huffman};

const SYMBOLS: usize = 512;
const LENGTH_MIN: usize = 3;

/// Unpacks `packed` to all of `out`; `None` when that contradicts itself.
pub fn unpack(packed: &[u8], out: &mut [u8]) -> Option<()> {
    let (table, data) = packed.split_at_checked(SYMBOLS / 2)?;
    let lengths: Vec<u8> = table.iter().flat_map(|pair| [pair & 15, pair >> 4]).collect();
    let code = Huffman::new(&lengths)?;
    let mut bits = Bits::new(data);
    let mut at = 0;
    while at < out.len() {
        let symbol = code.read(&mut bits)?;
        if let Ok(byte) = u8::try_from(symbol) {
            *out.get_mut(at)? = byte;
            at += 1;
            continue;
        }
        let (distance_bits, mut length) = (u32::from(symbol >> 4 & 15), usize::from(symbol & 15));
        // The bytes of a long length lie behind the word that the distance's bits end in.
        let distance = (1 << distance_bits) + bits.read(distance_bits) as usize;
        if length == 15 {
            length += usize::from(*bits.bytes(1).first()?);
            if length == 15 + 255 {
                length = usize::from(u16::from_le_bytes(*bits.bytes(2).first_chunk()?));
                if length == 0 {
                    length = u32::from_le_bytes(*bits.bytes(4).first_chunk()?) as usize;
                }
            }
        }
        at = lz::repeat(out, at, distance, length.checked_add(LENGTH_MIN)?)?;
    }
    Some(())
}
