//! Sectors decrypted: AES in the modes that volumes are encrypted in.
//!
//! A cipher is named as dm-crypt names it: `aes-xts-plain64`, `aes-cbc-essiv:sha256`. Sectors are decrypted in place, many
//! blocks at once, which keeps the processor's AES unit busy: XTS (IEEE 1619) and CBC need no block's result for the next.

use aes::{
    Aes128, Aes192, Aes256, Block,
    cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, InnerIvInit, KeyInit, KeySizeUser},
};

use super::kdf::Hash;
use crate::{Error, Result};

/// Blocks that are decrypted together.
const BATCH: usize = 32;

/// Decrypts sectors, each of which has a number.
pub trait SectorCipher: Send + Sync {
    /// Decrypts the sector `number` in place. Bytes behind its last whole block stay as they are; no sector has any.
    fn decrypt(&self, number: u64, sector: &mut [u8]);
}

/// The cipher called `name`, with `key`.
///
/// # Errors
///
/// `Unsupported` when it is not known, `Damaged` when the key is not of its size.
pub fn of(name: &str, key: &[u8]) -> Result<Box<dyn SectorCipher>> {
    let (algorithm, mode) = name.split_once('-').unwrap_or((name, "cbc-plain"));
    if algorithm != "aes" {
        return Err(Error::unsupported(format!("it is encrypted by {name:?}: of the ciphers only aes is supported")));
    }
    match mode {
        "xts-plain64" | "xts-plain" => {
            let (data, tweak) = key.split_at(key.len() / 2);
            let narrow = mode == "xts-plain";
            match data.len() {
                16 => Ok(Box::new(Xts { data: aes::<Aes128>(data)?, tweak: aes::<Aes128>(tweak)?, narrow })),
                32 => Ok(Box::new(Xts { data: aes::<Aes256>(data)?, tweak: aes::<Aes256>(tweak)?, narrow })),
                _ => Err(key_size(name, key)),
            }
        }
        "ecb" => match key.len() {
            16 => Ok(Box::new(Ecb(aes::<Aes128>(key)?))),
            24 => Ok(Box::new(Ecb(aes::<Aes192>(key)?))),
            32 => Ok(Box::new(Ecb(aes::<Aes256>(key)?))),
            _ => Err(key_size(name, key)),
        },
        _ => {
            let iv = match mode.strip_prefix("cbc-") {
                Some("plain") => Iv::Plain,
                Some("plain64") => Iv::Plain64,
                Some("plain64be") => Iv::Plain64Be,
                Some(essiv) if essiv.starts_with("essiv:") => {
                    let salt = Hash::named(essiv.trim_start_matches("essiv:"))?.digest(&[key]);
                    Iv::Essiv(Encryptor::new(&salt)?)
                }
                _ => {
                    return Err(Error::unsupported(format!(
                        "it is encrypted in the mode {name:?}, which is not supported"
                    )));
                }
            };
            match key.len() {
                16 => Ok(Box::new(Cbc { data: aes::<Aes128>(key)?, iv })),
                24 => Ok(Box::new(Cbc { data: aes::<Aes192>(key)?, iv })),
                32 => Ok(Box::new(Cbc { data: aes::<Aes256>(key)?, iv })),
                _ => Err(key_size(name, key)),
            }
        }
    }
}

fn key_size(name: &str, key: &[u8]) -> Error {
    Error::damaged(format!("a key of {} bytes for {name}, which has none of that size", key.len()))
}

fn aes<C: KeyInit + KeySizeUser>(key: &[u8]) -> Result<C> {
    C::new_from_slice(key).map_err(|_| key_size("aes", key))
}

/// The blocks of `bytes`.
fn blocks_of(bytes: &mut [u8]) -> &mut [Block] {
    Block::slice_as_chunks_mut(bytes).0
}

/// XTS: each block has a tweak of its own before and after.
struct Xts<C> {
    data: C,
    tweak: C,
    /// The numbers of sectors begin anew after 32 bits.
    narrow: bool,
}

impl<C> SectorCipher for Xts<C>
where
    C: BlockCipherDecrypt
        + BlockCipherEncrypt
        + aes::cipher::BlockSizeUser<BlockSize = aes::cipher::consts::U16>
        + Send
        + Sync,
{
    fn decrypt(&self, number: u64, sector: &mut [u8]) {
        let number = if self.narrow { number & u64::from(u32::MAX) } else { number };
        let mut first = Block::from(u128::from(number).to_le_bytes());
        self.tweak.encrypt_block(&mut first);
        let mut tweak = u128::from_le_bytes(first.into());
        let mut tweaks = [0; BATCH];
        for batch in blocks_of(sector).chunks_mut(BATCH) {
            for (block, slot) in batch.iter_mut().zip(&mut tweaks) {
                *slot = tweak;
                mix(block, tweak);
                tweak = doubled(tweak);
            }
            self.data.decrypt_blocks(batch);
            batch.iter_mut().zip(&tweaks).for_each(|(block, tweak)| mix(block, *tweak));
        }
    }
}

/// Times x in the field of 2^128 elements that XTS reckons in.
const fn doubled(tweak: u128) -> u128 {
    (tweak << 1) ^ ((tweak >> 127) * 0x87)
}

fn mix(block: &mut Block, tweak: u128) {
    *block = (u128::from_le_bytes((*block).into()) ^ tweak).to_le_bytes().into();
}

/// CBC: each block is mixed with the encrypted one before.
struct Cbc<C> {
    data: C,
    iv: Iv,
}

/// How the first block of a sector is made to differ from that of another.
enum Iv {
    /// The number of the sector in 32 bits.
    Plain,
    /// In 64.
    Plain64,
    /// In 64, the highest byte first, at the end.
    Plain64Be,
    /// The number encrypted by a hash of the key.
    Essiv(Encryptor),
    /// The number encrypted by the key itself, as BitLocker does with the byte at which the sector begins.
    Own(Encryptor),
}

impl Iv {
    fn of(&self, number: u64) -> Block {
        let wide = |number: u64| Block::from(u128::from(number).to_le_bytes());
        match self {
            Self::Plain => wide(number & u64::from(u32::MAX)),
            Self::Plain64 => wide(number),
            Self::Plain64Be => Block::from(u128::from(number).to_be_bytes()),
            Self::Essiv(by) | Self::Own(by) => by.encrypted(wide(number)),
        }
    }
}

impl<C> SectorCipher for Cbc<C>
where
    C: BlockCipherDecrypt + aes::cipher::BlockSizeUser<BlockSize = aes::cipher::consts::U16> + Send + Sync,
{
    fn decrypt(&self, number: u64, sector: &mut [u8]) {
        let iv = self.iv.of(number);
        cbc::Decryptor::inner_iv_init(&self.data, &iv).decrypt_blocks(blocks_of(sector));
    }
}

/// Each block by itself.
struct Ecb<C>(C);

impl<C> SectorCipher for Ecb<C>
where
    C: BlockCipherDecrypt + aes::cipher::BlockSizeUser<BlockSize = aes::cipher::consts::U16> + Send + Sync,
{
    fn decrypt(&self, _number: u64, sector: &mut [u8]) {
        self.0.decrypt_blocks(blocks_of(sector));
    }
}

/// AES with a key of any of its sizes, for single blocks.
pub enum Encryptor {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl Encryptor {
    /// With `key`.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is not of a size that AES has.
    pub fn new(key: &[u8]) -> Result<Self> {
        match key.len() {
            16 => Ok(Self::Aes128(aes(key)?)),
            24 => Ok(Self::Aes192(aes(key)?)),
            32 => Ok(Self::Aes256(aes(key)?)),
            _ => Err(key_size("aes", key)),
        }
    }

    /// `block`, encrypted.
    pub fn encrypted(&self, mut block: Block) -> Block {
        match self {
            Self::Aes128(aes) => aes.encrypt_block(&mut block),
            Self::Aes192(aes) => aes.encrypt_block(&mut block),
            Self::Aes256(aes) => aes.encrypt_block(&mut block),
        }
        block
    }
}

/// CBC whose sectors are numbered by their first byte, as BitLocker has it.
///
/// # Errors
///
/// `Damaged` when the key is not of a size that AES has.
pub fn cbc_by_bytes(key: &[u8]) -> Result<Box<dyn SectorCipher>> {
    let iv = Iv::Own(Encryptor::new(key)?);
    match key.len() {
        16 => Ok(Box::new(Cbc { data: aes::<Aes128>(key)?, iv })),
        32 => Ok(Box::new(Cbc { data: aes::<Aes256>(key)?, iv })),
        _ => Err(key_size("aes-cbc", key)),
    }
}
