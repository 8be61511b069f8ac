//! RAID 5 and 6: what a missing stripe was, out of those that are left.
//!
//! P is the XOR of all data stripes. Q is the sum of data stripe `i` times 2^i in GF(256) with the polynomial 0x11d.

/// Powers of 2, twice over so that sums of two logarithms need no modulo.
const POWERS: [u8; 510] = powers();
const LOGARITHMS: [u8; 256] = logarithms();

const fn powers() -> [u8; 510] {
    let mut table = [0; 510];
    let (mut value, mut i) = (1_u16, 0);
    while i < 510 {
        table[i] = value as u8;
        value <<= 1;
        if value > 0xff {
            value ^= 0x11d;
        }
        i += 1;
    }
    table
}

const fn logarithms() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 255 {
        table[POWERS[i] as usize] = i as u8;
        i += 1;
    }
    table
}

/// 2^`n`.
fn power(n: usize) -> u8 {
    POWERS[n % 255]
}

/// `a` times `b`.
fn times(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    POWERS[usize::from(LOGARITHMS[usize::from(a)]) + usize::from(LOGARITHMS[usize::from(b)])]
}

/// 1 divided by `a`, which is not 0.
fn inverse(a: u8) -> u8 {
    POWERS[255 - usize::from(LOGARITHMS[usize::from(a)])]
}

/// Adds `bytes` to `sum`: with P or with data, what is left is the stripe that is not in it.
pub fn add(sum: &mut [u8], bytes: &[u8]) {
    for (to, byte) in sum.iter_mut().zip(bytes) {
        *to ^= byte;
    }
}

/// Adds data stripe number `index` to `sum` as Q has it.
pub fn add_weighted(sum: &mut [u8], bytes: &[u8], index: usize) {
    let factor = power(index);
    for (to, byte) in sum.iter_mut().zip(bytes) {
        *to ^= times(*byte, factor);
    }
}

/// `sum` is Q and all data but number `index`: makes it that stripe.
pub fn from_q(sum: &mut [u8], index: usize) {
    let factor = inverse(power(index));
    for byte in sum {
        *byte = times(*byte, factor);
    }
}

/// `p` is P and all data but numbers `index` and `other`, `q` is Q and the same: makes `p` stripe `index`. The two
/// numbers differ, and are below 255.
pub fn from_both(p: &mut [u8], q: &[u8], index: usize, other: usize) {
    // p = x + y and q = 2^index x + 2^other y, so x = (q + 2^other p) / (2^index + 2^other).
    let weight = power(other);
    let factor = inverse(power(index) ^ weight);
    for (p, q) in p.iter_mut().zip(q) {
        *p = times(q ^ times(*p, weight), factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any one or two of seven stripes come back, as the definitions of P and Q say.
    #[test]
    fn stripes_come_back() {
        let data: Vec<Vec<u8>> =
            (0..7_u8).map(|i| (0..=255).map(|b: u8| b.wrapping_mul(i * 2 + 3) ^ i).collect()).collect();
        let (mut p, mut q) = (vec![0; 256], vec![0; 256]);
        for (i, stripe) in data.iter().enumerate() {
            add(&mut p, stripe);
            add_weighted(&mut q, stripe, i);
        }
        for x in 0..7 {
            let mut only_q = q.clone();
            data.iter().enumerate().filter(|(i, _)| *i != x).for_each(|(i, d)| add_weighted(&mut only_q, d, i));
            from_q(&mut only_q, x);
            assert_eq!(only_q, data[x]);
            for y in (0..7).filter(|y| *y != x) {
                let (mut p, mut q) = (p.clone(), q.clone());
                for (i, stripe) in data.iter().enumerate().filter(|(i, _)| *i != x && *i != y) {
                    add(&mut p, stripe);
                    add_weighted(&mut q, stripe, i);
                }
                from_both(&mut p, &q, x, y);
                assert_eq!(p, data[x], "{x} without {y}");
            }
        }
    }

    #[test]
    fn field() {
        assert_eq!((times(0x80, 2), times(0, 7), power(8)), (0x1d, 0, 0x1d));
        for a in 1..=255 {
            assert_eq!(times(a, inverse(a)), 1);
        }
    }
}
