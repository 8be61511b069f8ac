//! Multi-sector transfer protection: what tells that a structure of several sectors was written whole.
//!
//! The last two bytes of each stride of 512 bytes (of a sector, by some tools) are kept in an array in the structure's
//! head, and the same number is in the place of all of them. Where it is not, the write was torn.

use blockdev::{Error, Result, fields::le16};

/// Where a structure says where its array is and how many numbers that has.
const ARRAY_AT: usize = 4;
const ARRAY_LEN_AT: usize = 6;

/// Puts the bytes of `block`, which must begin with `magic`, back to where they belong.
pub fn restore(block: &mut [u8], magic: &[u8; 4]) -> Result<()> {
    if !block.starts_with(magic) {
        let found = String::from_utf8_lossy(block.get(..4).unwrap_or_default()).escape_debug().to_string();
        return Err(Error::damaged(format!("it begins with '{found}' and not '{}'", String::from_utf8_lossy(magic))));
    }
    let array = usize::from(le16(block, ARRAY_AT));
    let strides = usize::from(le16(block, ARRAY_LEN_AT)).saturating_sub(1);
    let stride = block.len().checked_div(strides).unwrap_or(0);
    if !matches!(stride, 512 | 1024 | 2048 | 4096)
        || stride * strides != block.len()
        || array + 2 * strides + 2 > stride
    {
        return Err(Error::damaged(format!("its {strides} update sequence numbers do not fit its size")));
    }
    let number = le16(block, array);
    for i in 1..=strides {
        let kept = le16(block, array + 2 * i).to_le_bytes();
        let end = i * stride - 2;
        if le16(block, end) != number && !cfg!(fuzzing) {
            return Err(Error::damaged(format!("its part {i} of {strides} is of another write than its head")));
        }
        if let Some(place) = block.get_mut(end..end + 2) {
            place.copy_from_slice(&kept);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of `strides` strides whose ends were `ends`.
    fn protected(stride: usize, ends: &[[u8; 2]]) -> Vec<u8> {
        let mut block = vec![7; stride * ends.len()];
        block[..8].copy_from_slice(&[b'F', b'I', b'L', b'E', 42, 0, ends.len() as u8 + 1, 0]);
        block[42..44].copy_from_slice(&[0x34, 0x12]);
        for (i, end) in ends.iter().enumerate() {
            block[44 + 2 * i..][..2].copy_from_slice(end);
            block[(i + 1) * stride - 2..][..2].copy_from_slice(&[0x34, 0x12]);
        }
        block
    }

    #[test]
    fn bytes_go_back_and_torn_writes_are_seen() {
        for (stride, ends) in [(512, vec![[1, 2], [3, 4]]), (4096, vec![[5, 6]]), (512, vec![[9, 9]; 8])] {
            let mut block = protected(stride, &ends);
            let mut torn = block.clone();
            restore(&mut block, b"FILE").unwrap();
            for (i, end) in ends.iter().enumerate() {
                assert_eq!(block[(i + 1) * stride - 2..][..2], *end);
            }
            assert!(restore(&mut block, b"INDX").is_err());
            torn[stride * ends.len() - 1] ^= 1;
            assert!(restore(&mut torn, b"FILE").unwrap_err().to_string().contains("another write"));
        }
    }

    #[test]
    fn arrays_that_do_not_fit_are_refused() {
        for (at, byte) in [(4, 0xff), (5, 0xff), (6, 0), (6, 1), (6, 4), (7, 0xff)] {
            let mut block = protected(512, &[[1, 2], [3, 4]]);
            block[at] = byte;
            assert!(restore(&mut block, b"FILE").is_err(), "byte {at} = {byte}");
        }
        assert!(restore(&mut [], b"FILE").is_err());
    }
}
