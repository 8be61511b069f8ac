//! A slot: the volume's key, blown up to many times its size so that it can be wiped from a disk, and encrypted by a key
//! that is derived from a secret.

use std::iter;

use super::{
    super::{
        Budget, cipher,
        kdf::{Hash, Kdf},
        secrets::Key,
    },
    SECTOR,
};
use crate::{BlockDevice, Error, Result, fields};

/// Bytes of a key: two of 256 bits for XTS, and as many for an integrity tag that is not supported yet.
pub const KEY_MAX: u32 = 128;
/// Pieces that a key is split into; all tools use 4000.
const STRIPES_MAX: u32 = 8192;

/// A slot.
#[derive(Debug)]
pub struct Slot {
    /// How a secret becomes the key of the slot.
    pub kdf: Kdf,
    /// How the slot is encrypted, as dm-crypt names it.
    pub cipher: String,
    /// Bytes of the key of the slot.
    pub cipher_key_len: u32,
    /// Where it begins in the device.
    pub offset: u64,
    /// Bytes of the volume's key.
    pub key_len: u32,
    /// The pieces that it is split into.
    pub stripes: u32,
    /// What mixes the pieces.
    pub hash: Hash,
}

impl Slot {
    /// Whether its sizes make sense.
    ///
    /// # Errors
    ///
    /// `Damaged` where they do not.
    pub fn checked(self) -> Result<Self> {
        let keys = [self.key_len, self.cipher_key_len];
        if keys.iter().any(|len| !(1..=KEY_MAX).contains(len)) || !(1..=STRIPES_MAX).contains(&self.stripes) {
            let (key, stripes) = (self.key_len, self.stripes);
            return Err(Error::damaged(format!("a key slot with a key of {key} bytes in {stripes} stripes")));
        }
        Ok(self)
    }

    /// What `secret` makes of it, which is the volume's key or garbage.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or takes more than `budget` has.
    pub fn open(&self, device: &dyn BlockDevice, secret: &[u8], budget: &mut Budget) -> Result<Key> {
        let key = self.kdf.derive(secret, self.cipher_key_len as usize, budget)?;
        let cipher = cipher::of(&self.cipher, &key)?;
        let len = self.key_len as usize * self.stripes as usize;
        let sectors = len.div_ceil(SECTOR as usize);
        let stored = fields::read(device, self.offset, sectors * SECTOR as usize)?;
        let mut split = Key::new(stored);
        if split.len() < len {
            return Err(Error::damaged(format!("the key slot at byte {} is cut off", self.offset)));
        }
        for (number, sector) in (0..).zip(split.chunks_mut(SECTOR as usize)) {
            cipher.decrypt(number, sector);
        }
        Ok(self.merged(split.get(..len).unwrap_or_default()))
    }

    /// The key whose pieces are in `split`: each but the last is mixed in and then hashed over.
    fn merged(&self, split: &[u8]) -> Key {
        let mut key = Key::new(vec![0; self.key_len as usize]);
        for (number, stripe) in (1..).zip(split.chunks_exact(key.len())) {
            key.iter_mut().zip(stripe).for_each(|(byte, mixed)| *byte ^= mixed);
            if number < self.stripes {
                self.diffuse(&mut key);
            }
        }
        key
    }

    fn diffuse(&self, key: &mut Key) {
        for (number, part) in iter::successors(Some(0_u32), |n| n.checked_add(1)).zip(key.chunks_mut(self.hash.len())) {
            let digest = self.hash.digest(&[&number.to_be_bytes(), part]);
            part.iter_mut().zip(digest.iter()).for_each(|(byte, hashed)| *byte = *hashed);
        }
    }
}
