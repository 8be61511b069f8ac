//! Zero-length encoding: a byte below 64 announces that many bytes and one more, the others stand for zeros.

const RUN_MAX: usize = 64;

/// Unpacks `packed` until `block` is full; how many bytes were made, or `None` when it cannot be unpacked.
pub fn unpack(packed: &[u8], block: &mut [u8]) -> Option<usize> {
    let (mut rest, mut made) = (packed, 0);
    while made < block.len() {
        let (count, tail) = rest.split_first()?;
        let len = usize::from(*count) + 1;
        if len <= RUN_MAX {
            let (bytes, tail) = tail.split_at_checked(len)?;
            block.get_mut(made..made + len)?.copy_from_slice(bytes);
            made += len;
            rest = tail;
        } else {
            let zeros = len - RUN_MAX;
            block.get_mut(made..made + zeros)?.fill(0);
            made += zeros;
            rest = tail;
        }
    }
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_fill_the_block_exactly() {
        let mut block = [9; 6];
        assert_eq!(unpack(&[1, b'a', b'b', 66, 0, b'c'], &mut block), Some(6));
        assert_eq!(&block, b"ab\0\0\0c");
        for hostile in [&[255][..], &[7, 1, 2, 3, 4, 5, 6, 7, 8], &[3, 1], &[]] {
            assert_eq!(unpack(hostile, &mut block), None, "{hostile:?}");
        }
    }
}
