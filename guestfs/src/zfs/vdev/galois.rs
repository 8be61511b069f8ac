//! The field GF(2^8) with the polynomial 0x11d, in which the parity of RAID-Z is computed.

/// Powers of 2, twice over, so that sums of two logarithms need no reduction.
const POWERS: [u8; 512] = {
    let mut powers = [0; 512];
    let (mut n, mut value) = (0, 1_u16);
    while n < 512 {
        powers[n] = value as u8;
        value <<= 1;
        if value & 0x100 != 0 {
            value ^= 0x11d;
        }
        n += 1;
    }
    powers
};

const LOGARITHMS: [u8; 256] = {
    let mut logarithms = [0; 256];
    let mut n = 0;
    while n < 255 {
        logarithms[POWERS[n] as usize] = n as u8;
        n += 1;
    }
    logarithms
};

/// 2 to the power of `exponent`.
pub fn power_of_two(exponent: usize) -> u8 {
    POWERS[exponent % 255]
}

/// The product.
pub fn times(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    POWERS[usize::from(LOGARITHMS[usize::from(a)]) + usize::from(LOGARITHMS[usize::from(b)])]
}

/// The quotient; 0 for a division by 0.
pub fn divided(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    POWERS[usize::from(LOGARITHMS[usize::from(a)]) + 255 - usize::from(LOGARITHMS[usize::from(b)])]
}

/// Multiplies each byte of `bytes` by 2, eight at once.
pub fn double(bytes: &mut [u8]) {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for bytes in words {
        let word = u64::from_le_bytes(*bytes);
        // Where the highest bit falls out, the polynomial is taken away.
        let overflow = (word & HIGH) >> 7;
        *bytes = ((word & !HIGH) << 1 ^ overflow.wrapping_mul(0x1d)).to_le_bytes();
    }
    for byte in rest {
        *byte = times(*byte, 2);
    }
}

/// Adds `bytes` times `factor` to `sum`, as far as both reach.
pub fn add_times(sum: &mut [u8], bytes: &[u8], factor: u8) {
    match factor {
        0 => {}
        1 => sum.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= byte),
        _ => {
            let products: [u8; 256] = std::array::from_fn(|byte| times(byte as u8, factor));
            sum.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= products[usize::from(*byte)]);
        }
    }
}

/// The inverse of the square `matrix`, or `None` when it has none.
pub fn inverse<const N: usize>(mut matrix: [[u8; N]; N]) -> Option<[[u8; N]; N]> {
    let mut inverse: [[u8; N]; N] = std::array::from_fn(|row| std::array::from_fn(|column| u8::from(row == column)));
    for column in 0..N {
        let pivot = (column..N).find(|row| matrix[*row][column] != 0)?;
        matrix.swap(column, pivot);
        inverse.swap(column, pivot);
        let factor = matrix[column][column];
        for n in 0..N {
            matrix[column][n] = divided(matrix[column][n], factor);
            inverse[column][n] = divided(inverse[column][n], factor);
        }
        let (pivot_row, pivot_inverse) = (matrix[column], inverse[column]);
        for row in (0..N).filter(|row| *row != column) {
            let factor = matrix[row][column];
            for n in 0..N {
                matrix[row][n] ^= times(pivot_row[n], factor);
                inverse[row][n] ^= times(pivot_inverse[n], factor);
            }
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_field() {
        for a in 0..=255 {
            let mut doubled = [a; 11];
            double(&mut doubled);
            assert_eq!(doubled, [times(a, 2); 11]);
            for b in 1..=255 {
                assert_eq!(divided(times(a, b), b), a);
            }
        }
        assert_eq!((power_of_two(8), times(0x80, 2)), (0x1d, 0x1d));
        let matrix = [[1, 1, 1], [1, 2, 4], [1, 4, 16]];
        assert_eq!(inverse(matrix).and_then(inverse), Some(matrix));
        assert_eq!(inverse([[1, 2], [1, 2]]), None);
    }
}
