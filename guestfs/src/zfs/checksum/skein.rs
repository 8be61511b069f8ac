//! Skein-512-256 as a MAC (Ferguson and others, "The Skein Hash Function Family" 1.3): Threefish-512, whose tweak says what
//! is hashed, in UBI chaining. The block cipher is a library's; what is here is the chaining, because no living crate
//! keys it.

use threefish::Threefish512;

/// Bytes of a block of Threefish-512.
const BLOCK: usize = 64;

/// What is hashed: the type field of the tweak (section 3.5.1, table 6).
#[derive(Clone, Copy)]
enum Kind {
    Key = 0,
    Configuration = 4,
    Message = 48,
    Output = 63,
}

/// The state after key and configuration, with which each message begins.
pub struct Keyed([u8; BLOCK]);

impl Keyed {
    /// For messages under `key`.
    pub fn new(key: &[u8]) -> Self {
        let keyed = ubi([0; BLOCK], key, Kind::Key);
        // "SHA3", version 1, length of the output in bits, no tree (section 3.5.2).
        let mut configuration = [0; 32];
        configuration[..4].copy_from_slice(b"SHA3");
        configuration[4] = 1;
        configuration[8..16].copy_from_slice(&256_u64.to_le_bytes());
        Self(ubi(keyed, &configuration, Kind::Configuration))
    }

    /// The digest of `message`.
    pub fn digest(&self, message: &[u8]) -> [u8; 32] {
        let state = ubi(self.0, message, Kind::Message);
        let output = ubi(state, &[0; 8], Kind::Output);
        output.first_chunk().copied().unwrap_or_default()
    }
}

/// Unique block iteration: each block of `message` is encrypted under the state, and the two are the next state
/// (section 3.4).
fn ubi(mut state: [u8; BLOCK], message: &[u8], kind: Kind) -> [u8; BLOCK] {
    const FIRST: u64 = 1 << 62;
    const FINAL: u64 = 1 << 63;
    let mut position = 0;
    let mut flags = FIRST;
    let mut rest = message;
    loop {
        let (part, tail) = rest.split_at(rest.len().min(BLOCK));
        rest = tail;
        position += part.len() as u64;
        if rest.is_empty() {
            flags |= FINAL;
        }
        let mut padded = [0; BLOCK];
        padded[..part.len()].copy_from_slice(part);

        let mut tweak = [0; 16];
        tweak[..8].copy_from_slice(&position.to_le_bytes());
        tweak[8..].copy_from_slice(&(flags | (kind as u64) << 56).to_le_bytes());
        let mut words = padded.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut encrypted: [u64; 8] = std::array::from_fn(|_| words.next().unwrap_or_default());
        Threefish512::new_with_tweak(&state, &tweak).encrypt_block_u64(&mut encrypted);
        for (place, byte) in state.iter_mut().zip(encrypted.into_iter().flat_map(u64::to_le_bytes).zip(padded)) {
            *place = byte.0 ^ byte.1;
        }
        flags = 0;
        if rest.is_empty() {
            return state;
        }
    }
}
