//! LZNT1: what compressed files are packed with ([MS-XCA] 2.5).
//!
//! A unit is packed in chunks of 4 KiB, each for itself. A chunk is a sequence of bytes and of references to earlier
//! ones; a reference has 16 bits, of which as many are the distance as the place in the chunk takes, and the rest the
//! length.

use blockdev::{Error, Result, fields::le16};

use super::super::lz;

/// Bytes of an unpacked chunk.
const CHUNK: usize = 4096;

/// The bits of a chunk's head.
const SIZE: u16 = 0x0fff;
const SIGNATURE: u16 = 0x7000;
const IS_PACKED: u16 = 0x8000;

/// Unpacks `packed` to `size` bytes, a multiple of a chunk or less than one, in `out`, which is empty. Zeros are left out
/// at the end of the packed form.
pub fn unpack(packed: &[u8], size: usize, out: &mut Vec<u8>) -> Result<()> {
    out.resize(size, 0);
    let (mut rest, mut chunks) = (packed, out.chunks_mut(CHUNK));
    loop {
        let head = le16(rest, 0);
        let Some((_, tail)) = rest.split_at_checked(2).filter(|_| head != 0) else { return Ok(()) };
        let Some(chunk) = chunks.next() else { return Ok(()) };
        let Some((data, tail)) = tail.split_at_checked(usize::from(head & SIZE) + 1) else {
            return Err(Error::damaged(format!("the chunk before packed byte {} is cut off", packed.len())));
        };
        // The signature is that of chunks of 4 KiB, of which there are no others.
        let fits = head & SIGNATURE == 0x3000
            && if head & IS_PACKED != 0 {
                unpack_chunk(data, chunk).is_some()
            } else {
                chunk.get_mut(..data.len()).map(|dest| dest.copy_from_slice(data)).is_some()
            };
        if !fits {
            return Err(Error::damaged(format!("the chunk at packed byte {} is none", packed.len() - rest.len())));
        }
        rest = tail;
    }
}

/// Unpacks one chunk; `None` when it contradicts itself.
fn unpack_chunk(mut data: &[u8], chunk: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while let [flags, tail @ ..] = data {
        data = tail;
        // Eight bytes as they are: the most frequent case in what packs badly.
        if *flags == 0
            && let (Some(bytes), Some(dest)) = (data.first_chunk::<8>(), chunk.get_mut(at..at + 8))
        {
            dest.copy_from_slice(bytes);
            (data, at) = (data.get(8..)?, at + 8);
            continue;
        }
        let mut flags = *flags;
        for _ in 0..8 {
            if flags & 1 == 0 {
                let [byte, tail @ ..] = data else { return Some(()) };
                *chunk.get_mut(at)? = *byte;
                (data, at) = (tail, at + 1);
            } else {
                let (pair, tail) = data.split_first_chunk::<2>()?;
                data = tail;
                at = copy(chunk, at, u16::from_le_bytes(*pair))?;
            }
            flags >>= 1;
        }
    }
    Some(())
}

/// Repeats what `reference` refers to at `at`, and gives the place behind.
fn copy(chunk: &mut [u8], at: usize, reference: u16) -> Option<usize> {
    // At least 4 bits are distance; as many as tell all places before this one.
    let length_bits = match at {
        0 => return None,
        1..=16 => 12,
        _ => 16 - (usize::BITS - (at - 1).leading_zeros()),
    };
    let distance = usize::from(reference >> length_bits) + 1;
    let length = usize::from(reference & ((1 << length_bits) - 1)) + 3;
    lz::repeat(chunk, at, distance, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of [MS-XCA] 3.2.
    #[test]
    fn the_specifications_example() {
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01, 0xa0, 0x45,
            0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24, 0x13, 0x88, 0x05, 0xb4,
            0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00,
            0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let text = "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G \
                    F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        let mut out = Vec::new();
        unpack(&packed, 4096, &mut out).unwrap();
        assert_eq!(&out[..text.len()], text.as_bytes());
        assert!(out[text.len()..].iter().all(|b| *b == 0));
    }

    #[test]
    fn lies_are_refused() {
        for packed in [
            &[0x01_u8, 0xb0, 0x01, 0x00][..],      // a reference that is cut off
            &[0x02, 0xb0, 0x01, 0x00, 0x00],       // a reference before the start
            &[0x03, 0xb0, 0x02, b'a', 0xff, 0x1f], // one to what is before the start
            &[0x03, 0xb0, 0x02, b'a', 0xff, 0x0f], // one that is longer than the chunk
            &[0x10, 0xb0, 0x00],                   // a chunk that is cut off
            &[0x00, 0x80, 0x00],                   // a chunk of another size
        ] {
            assert!(unpack(packed, 4096, &mut Vec::new()).is_err(), "{packed:x?}");
        }
    }
}
