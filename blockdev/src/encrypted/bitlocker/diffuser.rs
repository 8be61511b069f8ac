//! The Elephant diffuser, with which Vista and Windows 7 made a change of any bit of a sector change all of it.
//!
//! N. Ferguson, "AES-CBC + Elephant diffuser", Microsoft 2006: the plain sector is mixed with a key of its own, run
//! through the diffusers A and B, and encrypted in CBC. Undone here in the other direction.

use aes::Block;

use super::super::{
    cipher::{Encryptor, SectorCipher, cbc_by_bytes},
    device::SECTOR_MAX,
};
use crate::Result;

/// Words of the largest sector.
const WORDS_MAX: usize = SECTOR_MAX / 4;

/// AES-CBC with the diffuser.
pub struct Diffused {
    sectors: Box<dyn SectorCipher>,
    tweak: Encryptor,
}

impl Diffused {
    /// With the key of the sectors, and that of the tweaks.
    ///
    /// # Errors
    ///
    /// `Damaged` when one is not of a size that AES has.
    pub fn new(key: &[u8], tweak: &[u8]) -> Result<Self> {
        Ok(Self { sectors: cbc_by_bytes(key)?, tweak: Encryptor::new(tweak)? })
    }

    /// What the sector at byte `number` is mixed with, over and over.
    fn sector_key(&self, number: u64) -> [Block; 2] {
        let first = u128::from(number);
        [first, first | 0x80 << 120].map(|block| self.tweak.encrypted(block.to_le_bytes().into()))
    }
}

impl SectorCipher for Diffused {
    fn decrypt(&self, number: u64, sector: &mut [u8]) {
        self.sectors.decrypt(number, sector);
        let mut words = [0; WORDS_MAX];
        let Some(words) = words.get_mut(..sector.len() / 4) else { return };
        for (word, bytes) in words.iter_mut().zip(sector.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        (0..3).for_each(|_| undo_b(words));
        (0..5).for_each(|_| undo_a(words));
        for (word, bytes) in words.iter().zip(sector.as_chunks_mut::<4>().0) {
            *bytes = word.to_le_bytes();
        }
        let key = self.sector_key(number).concat();
        sector.iter_mut().zip(key.iter().cycle()).for_each(|(byte, mixed)| *byte ^= mixed);
    }
}

/// One round of diffuser A: each word and those two and five before it.
fn undo_a(words: &mut [u32]) {
    const TURNS: [u32; 4] = [9, 0, 13, 0];
    let n = words.len();
    for (i, turn) in (0..n).zip(TURNS.into_iter().cycle()) {
        let near = words.get((i + n - 2) % n).copied().unwrap_or(0);
        let far = words.get((i + n - 5) % n).copied().unwrap_or(0);
        if let Some(word) = words.get_mut(i) {
            *word = word.wrapping_add(near ^ far.rotate_left(turn));
        }
    }
}

/// One round of diffuser B: each word and those two and five after it.
fn undo_b(words: &mut [u32]) {
    const TURNS: [u32; 4] = [0, 10, 0, 25];
    let n = words.len();
    for (i, turn) in (0..n).zip(TURNS.into_iter().cycle()) {
        let near = words.get((i + 2) % n).copied().unwrap_or(0);
        let far = words.get((i + 5) % n).copied().unwrap_or(0);
        if let Some(word) = words.get_mut(i) {
            *word = word.wrapping_add(near ^ far.rotate_left(turn));
        }
    }
}
