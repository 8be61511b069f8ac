//! Fletcher's checksums over words of 64 bits, two lanes and two sums (the oldest), or of 32 bits and four sums (the
//! usual one).

use super::Words;
use crate::zfs::order::Order;

/// Two sums of each of two lanes of 64-bit words.
pub fn two(block: &[u8], order: Order) -> Words {
    let (mut a0, mut a1, mut b0, mut b1) = (0_u64, 0_u64, 0_u64, 0_u64);
    for pair in block.as_chunks::<16>().0 {
        a0 = a0.wrapping_add(order.u64(pair, 0));
        a1 = a1.wrapping_add(order.u64(pair, 8));
        b0 = b0.wrapping_add(a0);
        b1 = b1.wrapping_add(a1);
    }
    [a0, a1, b0, b1]
}

/// Four sums of 32-bit words.
pub fn four(block: &[u8], order: Order) -> Words {
    match order {
        Order::Little => four_of(block, u32::from_le_bytes),
        Order::Big => four_of(block, u32::from_be_bytes),
    }
}

fn four_of(block: &[u8], word: impl Fn([u8; 4]) -> u32) -> Words {
    let (mut a, mut b, mut c, mut d) = (0_u64, 0_u64, 0_u64, 0_u64);
    for bytes in block.as_chunks::<4>().0 {
        a = a.wrapping_add(u64::from(word(*bytes)));
        b = b.wrapping_add(a);
        c = c.wrapping_add(b);
        d = d.wrapping_add(c);
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_as_defined() {
        let block: Vec<u8> = (1_u32..=8).flat_map(u32::to_be_bytes).collect();
        // Sums of sums: binomial coefficients weigh the words.
        assert_eq!(four(&block, Order::Big), [36, 120, 330, 792]);
        let words: Vec<u64> = (0..4).map(|n| Order::Big.u64(&block, 8 * n)).collect();
        assert_eq!(
            two(&block, Order::Big),
            [words[0] + words[2], words[1] + words[3], 2 * words[0] + words[2], 2 * words[1] + words[3]]
        );
        assert_ne!(four(&block, Order::Big), four(&block, Order::Little));
    }
}
