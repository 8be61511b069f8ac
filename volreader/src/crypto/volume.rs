//! Bacula 15 volume encryption: AES-XTS over a block's bytes from 32 on (format reference, section 2).
//!
//! The unit of XTS is 16 bytes, each with its own tweak, so a part of a block can be decrypted without the
//! rest: record headers are read at the price of a few units. Only the end of a block whose length is no
//! multiple of 16 hangs together (*ciphertext stealing*: the last whole unit and the rest after it).

use std::{fmt, ops::Range};

use aes::{
    Aes128Dec, Aes128Enc, Aes256Dec, Aes256Enc, Block,
    cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit, typenum::U16},
};
use base64ct::{Base64, Encoding};
use blockdev::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

/// Bytes of an XTS unit.
const UNIT: usize = 16;
/// Units decrypted at once: enough for every AES backend's width, small enough for the stack.
const BATCH: usize = 64;

/// What of a block's header goes into its tweak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockIdentity {
    /// `BlockNumber`.
    pub number: u32,
    /// `VolSessionId`.
    pub session_id: u32,
    /// `VolSessionTime`.
    pub session_time: u32,
}

/// The key of one encrypted volume.
pub struct VolumeKey(Cipher);

/// Expanded keys: one decrypts the data, one makes the tweak. They wipe themselves.
enum Cipher {
    Aes128 { data: Box<Aes128Dec>, tweak: Box<Aes128Enc> },
    Aes256 { data: Box<Aes256Dec>, tweak: Box<Aes256Enc> },
}

impl VolumeKey {
    /// Read a key file: what an SD's *Encryption Command* answers, lines `cipher: AES_256_XTS` and
    /// `cipher_key: <base64>`, others are passed over.
    ///
    /// # Errors
    ///
    /// `Invalid` when the lines are missing or do not fit together, `Unsupported` for other ciphers, `Locked`
    /// when the command answered with an `error:` line. No message has any part of a key in it.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let value = |wanted: &[u8]| {
            text.split(|&b| b == b'\n').find_map(|line| {
                let (key, value) = line.split_at_checked(line.iter().position(|&b| b == b':')?)?;
                (key.trim_ascii() == wanted).then(|| value.trim_ascii_start().get(1..))?.map(<[u8]>::trim_ascii)
            })
        };
        if let Some(error) = value(b"error").filter(|error| !error.is_empty()) {
            return Err(Error::new(
                ErrorKind::Locked,
                format!("volume key: the encryption command reports: {}", error.escape_ascii()),
            ));
        }
        let (Some(cipher), Some(key)) = (value(b"cipher"), value(b"cipher_key")) else {
            return Err(Error::invalid("volume key: needs a line \"cipher: ...\" and a line \"cipher_key: ...\""));
        };
        let mut room = Zeroizing::new([0; 64]);
        let key = match Base64::decode(key, room.as_mut_slice()) {
            Ok(key) => key,
            Err(_) => return Err(Error::invalid("volume key: cipher_key is not base64 of at most 64 bytes")),
        };
        match cipher {
            b"AES_128_XTS" => Self::aes_128(key),
            b"AES_256_XTS" => Self::aes_256(key),
            other => {
                return Err(Error::unsupported(format!(
                    "volume key: cipher {} is not AES_128_XTS or AES_256_XTS",
                    other.get(..32).unwrap_or(other).escape_ascii()
                )));
            }
        }
        .ok_or_else(|| {
            let len = key.len();
            Error::invalid(format!("volume key: {len} bytes do not fit cipher {}", cipher.escape_ascii()))
        })
    }

    fn aes_128(key: &[u8]) -> Option<Self> {
        let (data, tweak) = halves::<16>(key)?;
        let (data, tweak) = (Aes128Dec::new(data.into()), Aes128Enc::new(tweak.into()));
        Some(Self(Cipher::Aes128 { data: Box::new(data), tweak: Box::new(tweak) }))
    }

    fn aes_256(key: &[u8]) -> Option<Self> {
        let (data, tweak) = halves::<32>(key)?;
        let (data, tweak) = (Aes256Dec::new(data.into()), Aes256Enc::new(tweak.into()));
        Some(Self(Cipher::Aes256 { data: Box::new(data), tweak: Box::new(tweak) }))
    }

    /// Decrypt a whole block in place: `bytes` is what follows its 32-byte header.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is shorter than one unit, 16 bytes, which cannot be encrypted at all.
    pub fn decrypt_block(&self, block: BlockIdentity, bytes: &mut [u8]) -> Result<()> {
        self.decrypt_range(block, 0, bytes.len(), bytes)
    }

    /// The bytes to have for decrypting `wanted`: both are ranges of a block's `total` encrypted bytes. At
    /// most 15 bytes more at each side, or 31 at the end of the block.
    #[must_use]
    pub fn decryptable(wanted: Range<usize>, total: usize) -> Range<usize> {
        let stealing = stealing_start(total);
        let start = (wanted.start / UNIT * UNIT).min(stealing);
        let end = wanted.end.div_ceil(UNIT).saturating_mul(UNIT);
        start..if end > stealing { total } else { end.max(start) }
    }

    /// Decrypt in place a part of a block's `total` encrypted bytes, that from `offset` on, as
    /// [`Self::decryptable`] gave it.
    ///
    /// # Errors
    ///
    /// `Invalid` when the range is not one of those; `Damaged` when `total` is below 16.
    pub fn decrypt_range(&self, block: BlockIdentity, offset: usize, total: usize, bytes: &mut [u8]) -> Result<()> {
        if total < UNIT {
            return Err(Error::damaged(format!("an encrypted block with {total} bytes of content, at least {UNIT}")));
        }
        let end = offset.checked_add(bytes.len()).filter(|&end| end <= total);
        if end.is_none_or(|end| Self::decryptable(offset..end, total) != (offset..end)) {
            return Err(Error::invalid(format!(
                "{} bytes at {offset} of {total} cannot be decrypted alone",
                bytes.len()
            )));
        }
        let mut tweak = Block::default();
        for (to, from) in tweak.chunks_exact_mut(4).zip([block.number, block.session_id, block.session_time]) {
            to.copy_from_slice(&from.to_be_bytes());
        }
        match &self.0 {
            Cipher::Aes128 { data, tweak: key } => {
                key.encrypt_block(&mut tweak);
                xts_decrypt(data.as_ref(), &tweak, offset, bytes);
            }
            Cipher::Aes256 { data, tweak: key } => {
                key.encrypt_block(&mut tweak);
                xts_decrypt(data.as_ref(), &tweak, offset, bytes);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Cipher::Aes128 { .. } => "VolumeKey(AES_128_XTS)",
            Cipher::Aes256 { .. } => "VolumeKey(AES_256_XTS)",
        })
    }
}

fn halves<const N: usize>(key: &[u8]) -> Option<(&[u8; N], &[u8; N])> {
    let (data, tweak) = key.split_first_chunk()?;
    Some((data, tweak.try_into().ok()?))
}

/// Where the part that hangs together starts: at the end when there is none.
const fn stealing_start(total: usize) -> usize {
    match (total % UNIT, total / UNIT) {
        (0, _) | (_, 0) => total,
        (_, units) => (units - 1) * UNIT,
    }
}

/// `tweak` times x to the `power`, 1 to 64, in the field of IEEE 1619.
const fn multiply(tweak: u128, power: u32) -> u128 {
    let carry = tweak >> (128 - power);
    (tweak << power) ^ carry ^ (carry << 1) ^ (carry << 2) ^ (carry << 7)
}

/// Decrypt `bytes`, which start at `offset` (a multiple of 16) of what `tweak` was made for and end at a unit's
/// end or hold the whole stealing part.
fn xts_decrypt<C>(cipher: &C, tweak: &Block, offset: usize, bytes: &mut [u8])
where
    C: BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>,
{
    let mut tweak = u128::from_le_bytes(tweak.0);
    let units = offset / UNIT;
    for _ in 0..units / 64 {
        tweak = multiply(tweak, 64);
    }
    // The remainder of a division by 64.
    let rest = (units % 64) as u32;
    if rest > 0 {
        tweak = multiply(tweak, rest);
    }
    let (whole, stealing) = bytes.split_at_mut(stealing_start(bytes.len()));
    let (units, _) = Array::slice_as_chunks_mut(whole);
    for batch in units.chunks_mut(BATCH) {
        let mut tweaks = [0; BATCH];
        for (unit, kept) in batch.iter_mut().zip(&mut tweaks) {
            *kept = tweak;
            xor(unit, tweak);
            tweak = multiply(tweak, 1);
        }
        cipher.decrypt_blocks(batch);
        for (unit, kept) in batch.iter_mut().zip(tweaks) {
            xor(unit, kept);
        }
    }
    let Some((last, rest)) = stealing.split_first_chunk_mut::<UNIT>() else { return };
    // The last whole unit was encrypted with the tweak after its own; it holds the rest's plaintext in front,
    // and behind that the end of the unit that `rest` is the front of.
    let mut unit = Array(*last);
    decrypt_unit(cipher, multiply(tweak, 1), &mut unit);
    for (cipher_byte, plain_byte) in rest.iter_mut().zip(unit.iter_mut()) {
        std::mem::swap(cipher_byte, plain_byte);
    }
    decrypt_unit(cipher, tweak, &mut unit);
    *last = unit.0;
}

fn decrypt_unit<C>(cipher: &C, tweak: u128, unit: &mut Block)
where
    C: BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>,
{
    xor(unit, tweak);
    cipher.decrypt_block(unit);
    xor(unit, tweak);
}

fn xor(unit: &mut Block, with: u128) {
    unit.0 = (u128::from_le_bytes(unit.0) ^ with).to_le_bytes();
}

#[cfg(test)]
#[path = "volume_tests.rs"]
mod tests;
