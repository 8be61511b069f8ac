//! The hashes by which a hash tree orders names: two numbers each, the first of which decides.
//!
//! The names are the kernel's (`fs/ext4/hash.c`); the first hash is even, since the lowest bit marks in a tree that the
//! names of one hash go on in the next block.

use blockdev::fields::le32;

/// The largest first hash is kept free: it marks the end of a listing.
const END: u32 = 0xffff_fffe;

/// How a volume hashes names.
#[derive(Debug, Clone, Copy)]
pub struct Hashing {
    seed: [u32; 4],
    /// The function for directories without a tree.
    default: u8,
    /// Whether characters are bytes without a sign. Machines differ, so the volume tells its maker's.
    unsigned: bool,
}

/// A name's hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hash {
    /// That which decides.
    pub major: u32,
    /// The other.
    pub minor: u32,
}

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// The first one there was.
    Legacy,
    /// Half of MD4.
    HalfMd4,
    /// TEA, the tiny encryption algorithm.
    Tea,
}

impl Function {
    /// The one whose number is stored as `version`.
    pub const fn from_version(version: u8) -> Option<Self> {
        match version {
            0 => Some(Self::Legacy),
            1 => Some(Self::HalfMd4),
            2 => Some(Self::Tea),
            // 6 is SipHash with a secret key; 3 to 5 are never stored.
            _ => None,
        }
    }
}

impl Hashing {
    /// What the superblock `bytes` says.
    pub fn parse(bytes: &[u8]) -> Self {
        const UNSIGNED: u32 = 2;
        let mut seed = [0, 4, 8, 12].map(|at| le32(bytes, 236 + at));
        if seed == [0; 4] {
            // The initial state of MD4.
            seed = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
        }
        let default = bytes.get(252).copied().unwrap_or(0);
        Self { seed, default, unsigned: le32(bytes, 352) & UNSIGNED != 0 }
    }

    /// The function for directories without a tree.
    pub const fn default_function(&self) -> Option<Function> {
        Function::from_version(self.default)
    }

    /// The hashes of `name`.
    pub fn hash(&self, function: Function, name: &[u8]) -> Hash {
        let [mut a, mut b, mut c, mut d] = self.seed;
        let (major, minor) = match function {
            Function::Legacy => (self.legacy(name), 0),
            Function::HalfMd4 => {
                for at in (0..name.len()).step_by(32) {
                    let words = self.words::<8>(name.get(at..).unwrap_or_default());
                    [a, b, c, d] = half_md4([a, b, c, d], words);
                }
                (b, c)
            }
            Function::Tea => {
                for at in (0..name.len()).step_by(16) {
                    let words = self.words::<4>(name.get(at..).unwrap_or_default());
                    [a, b] = tea([a, b], words);
                }
                (a, b)
            }
        };
        let major = major & !1;
        Hash { major: if major == END { END - 2 } else { major }, minor }
    }

    /// A character as the number that the maker's C took it for.
    fn character(&self, byte: u8) -> u32 {
        if self.unsigned { byte.into() } else { i32::from(byte.cast_signed()).cast_unsigned() }
    }

    fn legacy(&self, name: &[u8]) -> u32 {
        let (mut last, mut before) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
        for byte in name {
            let mut next = before.wrapping_add(last ^ self.character(*byte).wrapping_mul(7_152_373));
            if next & 0x8000_0000 != 0 {
                next = next.wrapping_sub(0x7fff_ffff);
            }
            (before, last) = (last, next);
        }
        last << 1
    }

    /// The first `N` words of `rest`, which may be shorter: then its length fills them up.
    fn words<const N: usize>(&self, rest: &[u8]) -> [u32; N] {
        // Names have at most 255 bytes.
        let mut words = [u32::from_ne_bytes([rest.len() as u8; 4]); N];
        for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
            for byte in bytes {
                *word = self.character(*byte).wrapping_add(*word << 8);
            }
        }
        words
    }
}

/// One block of MD4 with two thirds of its rounds.
fn half_md4(state: [u32; 4], x: [u32; 8]) -> [u32; 4] {
    const ROUND_2: u32 = 0x5a82_7999;
    const ROUND_3: u32 = 0x6ed9_eba1;
    type Mix = fn(u32, u32, u32) -> u32;
    let choose: Mix = |x, y, z| z ^ (x & (y ^ z));
    let majority: Mix = |x, y, z| (x & y).wrapping_add((x ^ y) & z);
    let parity: Mix = |x, y, z| x ^ y ^ z;
    let [x0, x1, x2, x3, x4, x5, x6, x7] = x;
    let rounds = [
        (choose, 0, [3, 7, 11, 19], [x0, x1, x2, x3, x4, x5, x6, x7]),
        (majority, ROUND_2, [3, 5, 9, 13], [x1, x3, x5, x7, x0, x2, x4, x6]),
        (parity, ROUND_3, [3, 9, 11, 15], [x3, x7, x2, x6, x1, x5, x0, x4]),
    ];
    let [mut a, mut b, mut c, mut d] = state;
    for (mix, constant, turns, words) in rounds {
        for (word, turn) in words.into_iter().zip(turns.into_iter().cycle()) {
            let sum = a.wrapping_add(mix(b, c, d)).wrapping_add(word).wrapping_add(constant);
            (a, b, c, d) = (d, sum.rotate_left(turn), b, c);
        }
    }
    let [a0, b0, c0, d0] = state;
    [a0.wrapping_add(a), b0.wrapping_add(b), c0.wrapping_add(c), d0.wrapping_add(d)]
}

/// Sixteen rounds of TEA, with `key` as its key.
fn tea(state: [u32; 2], key: [u32; 4]) -> [u32; 2] {
    const DELTA: u32 = 0x9e37_79b9;
    let [k0, k1, k2, k3] = key;
    let [mut a, mut b] = state;
    let mut sum = 0_u32;
    let mix = |v: u32, sum: u32, left: u32, right: u32| {
        (v << 4).wrapping_add(left) ^ v.wrapping_add(sum) ^ (v >> 5).wrapping_add(right)
    };
    for _ in 0..16 {
        sum = sum.wrapping_add(DELTA);
        a = a.wrapping_add(mix(b, sum, k0, k1));
        b = b.wrapping_add(mix(a, sum, k2, k3));
    }
    let [a0, b0] = state;
    [a0.wrapping_add(a), b0.wrapping_add(b)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `debugfs -R "dx_hash -h FUNCTION -s 12345678-9abc-def0-1122-334455667788 NAME"` says.
    #[test]
    fn hashes_are_those_of_e2fsprogs() {
        let seed = [0x7856_3412, 0xf0de_bc9a, 0x4433_2211, 0x8877_6655_u32];
        let hash = |function, unsigned, name: &str| {
            let Hash { major, minor } = Hashing { seed, default: 1, unsigned }.hash(function, name.as_bytes());
            (major, minor)
        };
        use Function::{HalfMd4, Legacy, Tea};
        let long = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa€";
        for (function, name, hashes) in [
            (Legacy, "hello.txt", (0x65a0_5776, 0)),
            (HalfMd4, "hello.txt", (0x7c19_ef48, 0x7a56_170e)),
            (Tea, "hello.txt", (0x46ee_81d0, 0xdcf4_bfac)),
            (Legacy, "ä-ümlaut-file", (0xdbf0_b620, 0)),
            (HalfMd4, "ä-ümlaut-file", (0x9ecf_8b2a, 0x570a_5574)),
            (Tea, "ä-ümlaut-file", (0xe008_6434, 0x22ee_3cbe)),
            (Legacy, long, (0x59d5_3a00, 0)),
            (HalfMd4, long, (0xfa1c_bd26, 0x6c15_c1b0)),
            (Tea, long, (0x21a0_62a8, 0x6d9d_a8bf)),
        ] {
            assert_eq!(hash(function, false, name), hashes, "{function:?} of {name}");
        }
        for (function, hashes) in
            [(Legacy, (0x56f4_e600, 0)), (HalfMd4, (0xc18a_0d16, 0x86ea_2b8a)), (Tea, (0x3e05_29d0, 0x0ca4_28f1))]
        {
            assert_eq!(hash(function, true, "ä-ümlaut-file"), hashes, "{function:?}, unsigned");
        }
    }
}
