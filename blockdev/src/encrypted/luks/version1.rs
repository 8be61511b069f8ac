//! The header of LUKS1: 592 bytes, big-endian, eight slots (specification, section 3).

use sha2::{Digest, Sha256};

use super::{
    super::kdf::{Hash, Kdf},
    Header, KeyDigest, SECTOR,
    slot::Slot,
};
use crate::{
    BlockDevice, Error, Result,
    fields::{self, be32, slice},
};

/// Bytes of the header.
const LEN: usize = 592;
/// Where the slots begin, and the bytes of one.
const SLOTS: usize = 208;
const SLOT_LEN: usize = 48;
/// What marks a slot as used.
const ACTIVE: u32 = 0x00ac_71f3;

/// The header of the volume on `device`.
///
/// # Errors
///
/// When it cannot be read, is cut off, or uses what is not supported.
pub fn read(device: &dyn BlockDevice) -> Result<Header> {
    let bytes = fields::read(device, 0, LEN)?;
    if bytes.len() < LEN {
        return Err(Error::damaged("the volume ends within its LUKS header"));
    }
    let name = |at: usize| fields::text(slice(&bytes, at, 32)).unwrap_or_default();
    let (cipher, hash) = (format!("{}-{}", name(8), name(40)), Hash::named(&name(72))?);
    let key_len = be32(&bytes, 108);
    let slots = bytes.get(SLOTS..).unwrap_or_default().chunks_exact(SLOT_LEN);
    let slot = |slot: &[u8]| {
        let kdf = Kdf::Pbkdf2 { hash, iterations: be32(slot, 4), salt: slice(slot, 8, 32).to_vec() };
        let (offset, stripes) = (u64::from(be32(slot, 40)) * SECTOR, be32(slot, 44));
        Slot { kdf, cipher: cipher.clone(), cipher_key_len: key_len, offset, key_len, stripes, hash }.checked()
    };
    Ok(Header {
        id: Sha256::digest(&bytes).into(),
        slots: slots.filter(|s| be32(s, 0) == ACTIVE).map(slot).collect::<Result<_>>()?,
        passed_over: Vec::new(),
        digest: KeyDigest {
            kdf: Kdf::Pbkdf2 { hash, iterations: be32(&bytes, 164), salt: slice(&bytes, 132, 32).to_vec() },
            expected: slice(&bytes, 112, 20).to_vec(),
        },
        start: u64::from(be32(&bytes, 104)) * SECTOR,
        cipher,
        len: None,
        sector: SECTOR as usize,
        first: 0,
    })
}
