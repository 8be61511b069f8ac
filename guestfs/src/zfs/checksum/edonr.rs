//! Edon-R 512 (Gligoroski and others, "Cryptographic Hash Function EDON-R", 2008) with the tweak of its second version,
//! keyed as ZFS does it. No living crate has it.
//!
//! The state is a double pipe of 16 words. A block of 16 words is drawn through eight quasigroup operations with it.

/// Words of one operand of the quasigroup operation.
type Half = [u64; 8];

/// Bytes of a block.
const BLOCK: usize = 128;

/// The state at the beginning: bytes that count up from 0x80.
const START: [Half; 2] = [counted(0x80), counted(0xc0)];

const fn counted(from: u8) -> Half {
    let mut words = [0; 8];
    let mut n = 0;
    while n < 64 {
        words[n / 8] = words[n / 8] << 8 | (from as u64 + n as u64);
        n += 1;
    }
    words
}

/// The state after the salt, with which each message begins.
pub struct Keyed(State);

#[derive(Clone)]
struct State {
    pipe: [Half; 2],
    bytes: u64,
}

impl Keyed {
    /// For messages under `salt`: it is stretched to a block by hashing it twice.
    pub fn new(salt: &[u8]) -> Self {
        let once = digest(State::new(), salt);
        let twice = digest(State::new(), &once);
        let mut state = State::new();
        state.block(&words(&once), &words(&twice));
        Self(state)
    }

    /// The first half of the digest of `message`.
    pub fn digest(&self, message: &[u8]) -> [u8; 32] {
        digest(self.0.clone(), message).first_chunk().copied().unwrap_or_default()
    }
}

impl State {
    const fn new() -> Self {
        Self { pipe: START, bytes: 0 }
    }

    /// The compression function over the two halves of a block.
    fn block(&mut self, low: &Half, high: &Half) {
        let [old_low, old_high] = self.pipe;
        // First row: the block alone, its second half reversed.
        let mut a = quasigroup(&reversed(high), low);
        let mut b = quasigroup(&a, high);
        // Second and third row: with the old state.
        a = quasigroup(&old_high, &a);
        b = quasigroup(&a, &b);
        a = quasigroup(&a, &old_low);
        b = quasigroup(&b, &a);
        // Fourth row: the first half reversed.
        a = quasigroup(&reversed(low), &a);
        b = quasigroup(&a, &b);
        // The tweak: what went in is added once more.
        self.pipe = [xor3(&old_low, high, &a), xor3(&old_high, low, &b)];
        self.bytes += BLOCK as u64;
    }
}

/// Pads `message`: a one bit, zeros, and the length in bits, which counts what the state has seen before.
fn digest(mut state: State, message: &[u8]) -> [u8; 64] {
    let (blocks, rest) = message.as_chunks::<BLOCK>();
    for block in blocks {
        let (low, high) = block.split_at(BLOCK / 2);
        state.block(&words(low), &words(high));
    }
    let bits = (state.bytes + rest.len() as u64) * 8;
    let mut end = rest.to_vec();
    end.push(0x80);
    end.resize((end.len() + 8).next_multiple_of(BLOCK) - 8, 0);
    end.extend(bits.to_le_bytes());
    for block in end.as_chunks::<BLOCK>().0 {
        let (low, high) = block.split_at(BLOCK / 2);
        state.block(&words(low), &words(high));
    }
    let mut digest = [0; 64];
    for (place, byte) in digest.iter_mut().zip(state.pipe[1].into_iter().flat_map(u64::to_le_bytes)) {
        *place = byte;
    }
    digest
}

fn words(bytes: &[u8]) -> Half {
    let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

fn reversed(x: &Half) -> Half {
    let mut y = *x;
    y.reverse();
    y
}

fn xor3(x: &Half, y: &Half, z: &Half) -> Half {
    std::array::from_fn(|n| x[n] ^ y[n] ^ z[n])
}

/// The quasigroup operation of order 2^512: each operand goes through a Latin square of sums with rotations and another
/// of XORs, and the two are added.
fn quasigroup(x: &Half, y: &Half) -> Half {
    // Which five words each row sums, and by how much it rotates the sum; then which three sums it mixes.
    const ROTATED_X: [u32; 8] = [0, 5, 15, 22, 31, 40, 50, 59];
    const SUMMED_X: [[usize; 5]; 8] = [
        [0, 1, 2, 4, 7],
        [0, 1, 3, 4, 7],
        [0, 1, 4, 6, 7],
        [2, 3, 5, 6, 7],
        [1, 2, 3, 5, 6],
        [0, 2, 3, 4, 5],
        [0, 1, 5, 6, 7],
        [2, 3, 4, 5, 6],
    ];
    const ROTATED_Y: [u32; 8] = [0, 10, 19, 29, 36, 44, 48, 55];
    const SUMMED_Y: [[usize; 5]; 8] = [
        [0, 1, 2, 5, 7],
        [0, 1, 3, 4, 6],
        [0, 1, 2, 3, 5],
        [2, 3, 4, 6, 7],
        [0, 1, 3, 4, 5],
        [2, 4, 5, 6, 7],
        [1, 2, 5, 6, 7],
        [0, 3, 4, 6, 7],
    ];
    const MIXED_X: [[usize; 3]; 8] =
        [[0, 1, 4], [0, 4, 7], [1, 6, 7], [2, 3, 4], [0, 1, 7], [3, 5, 6], [2, 5, 6], [2, 3, 5]];
    const MIXED_Y: [[usize; 3]; 8] =
        [[0, 1, 5], [2, 6, 7], [0, 1, 3], [0, 3, 4], [1, 2, 5], [3, 4, 6], [2, 5, 7], [4, 6, 7]];
    const CONSTANT: u64 = 0xaaaa_aaaa_aaaa_aaaa;

    let sum = |z: &Half, summed: &[usize; 5]| summed.iter().fold(0_u64, |sum, n| sum.wrapping_add(z[*n]));
    let mut s: Half = std::array::from_fn(|row| sum(x, &SUMMED_X[row]).rotate_left(ROTATED_X[row]));
    let mut t: Half = std::array::from_fn(|row| sum(y, &SUMMED_Y[row]).rotate_left(ROTATED_Y[row]));
    s[0] = s[0].wrapping_add(CONSTANT);
    t[0] = t[0].wrapping_add(!CONSTANT);
    let mix = |z: &Half, mixed: &[usize; 3]| mixed.iter().fold(0, |mix, n| mix ^ z[*n]);
    std::array::from_fn(|row| mix(&s, &MIXED_X[row]).wrapping_add(mix(&t, &MIXED_Y[row])))
}
