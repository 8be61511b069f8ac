//! LZJB: before each eight items a byte that says, from the lowest bit upwards, which of them are copies (two bytes:
//! 6 bits of length less 3, 10 bits of distance) and which are bytes.

const LENGTH_MIN: usize = 3;

/// Unpacks `packed` until `block` is full; how many bytes were made, or `None` when it cannot be unpacked.
pub fn unpack(packed: &[u8], block: &mut [u8]) -> Option<usize> {
    let mut input = packed.iter().copied();
    let mut made = 0;
    let (mut copies, mut items) = (0_u8, 0);
    while made < block.len() {
        if items == 0 {
            copies = input.next()?;
            items = 8;
        }
        if copies & 1 == 1 {
            let (high, low) = (input.next()?, input.next()?);
            let len = usize::from(high >> 2) + LENGTH_MIN;
            let distance = usize::from(high & 3) << 8 | usize::from(low);
            let from = made.checked_sub(distance).filter(|_| distance > 0)?;
            // A copy may run into what it makes, and past the end of the block.
            for n in 0..len.min(block.len() - made) {
                let byte = *block.get(from + n)?;
                *block.get_mut(made + n)? = byte;
            }
            made = (made + len).min(block.len());
        } else {
            *block.get_mut(made)? = input.next()?;
            made += 1;
        }
        copies >>= 1;
        items -= 1;
    }
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_overlap_and_hostile_ones_are_refused() {
        let mut block = [0; 9];
        // Two bytes, then a copy of 6 bytes from 2 before, then a byte.
        assert_eq!(unpack(&[0b100, b'a', b'b', 3 << 2, 2, b'!'], &mut block), Some(9));
        assert_eq!(&block, b"abababab!");
        for hostile in [&[1, 0, 1][..], &[0b10, b'a', 0, 0], &[0b10, b'a', 0, 2], &[0, b'a']] {
            assert_eq!(unpack(hostile, &mut block), None, "{hostile:?}");
        }
    }
}
