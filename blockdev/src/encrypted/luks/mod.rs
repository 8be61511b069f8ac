//! LUKS, Linux' encrypted volumes: a header, slots that each hide the volume's key behind a secret, and the sectors.
//!
//! `version1` and `version2` read the headers into the same [`Header`]; `slot` opens one. What a slot gives is compared
//! with the header's digest of the volume's key, so a key is right or it is refused. (LUKS1 On-Disk Format Specification
//! 1.2.3; LUKS2 On-Disk Format Specification 1.1.4.)

mod slot;
mod version1;
mod version2;

use std::sync::Arc;

use self::slot::Slot;
use super::{
    Budget, Secrets, cipher,
    device::{Decrypted, Piece, Sectors},
    kdf::Kdf,
    locked,
    secrets::{HeaderId, Key},
};
use crate::{BlockDevice, Error, Result, fields};

/// Keys are numbered in sectors of this size, whatever is encrypted as one.
const SECTOR: u64 = 512;

/// What a header says.
#[derive(Debug)]
struct Header {
    id: HeaderId,
    /// In the order in which they are tried.
    slots: Vec<Slot>,
    /// Slots that cannot be opened by a secret of ours, and why.
    passed_over: Vec<Error>,
    /// How a key is told to be the right one.
    digest: KeyDigest,
    /// As dm-crypt names it.
    cipher: String,
    /// Where the encrypted sectors are in the device, in bytes.
    start: u64,
    /// How many bytes; `None`: all up to the device's end.
    len: Option<u64>,
    /// Bytes of a sector.
    sector: usize,
    /// The number of the first.
    first: u64,
}

/// A digest of the volume's key.
#[derive(Debug)]
struct KeyDigest {
    kdf: Kdf,
    expected: Vec<u8>,
}

impl KeyDigest {
    fn is_of(&self, key: &[u8], budget: &mut Budget) -> Result<bool> {
        Ok(!self.expected.is_empty() && *self.kdf.derive(key, self.expected.len(), budget)? == self.expected)
    }
}

/// The volume on `device`.
///
/// # Errors
///
/// Those of [`unlock`](super::unlock).
pub fn open(device: &Arc<dyn BlockDevice>, secrets: &Secrets, budget: &mut Budget) -> Result<Decrypted> {
    let header = match fields::be16(&fields::read(device.as_ref(), 0, 8)?, 6) {
        1 => version1::read(device.as_ref())?,
        2 => version2::read(device.as_ref())?,
        other => return Err(Error::unsupported(format!("LUKS of version {other}: 1 and 2 are known"))),
    };
    let key = secrets.key_of(header.id, || header.key(device.as_ref(), secrets, budget))?;
    let Some(key) = key else {
        let unknown = header.passed_over.into_iter().next().filter(|_| header.slots.is_empty());
        return Err(unknown.unwrap_or_else(|| locked(secrets, "its passphrase or key file")));
    };
    let cipher = cipher::of(&header.cipher, &key)?;
    let sectors = Sectors::new(cipher, &key, header.sector, SECTOR, header.first)?;
    let there = device.size().checked_sub(header.start).ok_or_else(|| {
        Error::damaged(format!("its data begins at byte {}, behind the end of the volume", header.start))
    })?;
    let size = header.len.unwrap_or(there - there % header.sector as u64);
    Decrypted::new(device, sectors, header.start, vec![(0, Piece::Encrypted(0))], size)
}

impl Header {
    /// The key of the volume, when one of `secrets` opens a slot. A slot that cannot be read hides no other.
    fn key(&self, device: &dyn BlockDevice, secrets: &Secrets, budget: &mut Budget) -> Result<Option<Key>> {
        let mut failed = None;
        for secret in secrets.candidates() {
            for slot in &self.slots {
                match slot.open(device, secret, budget) {
                    Ok(key) if self.digest.is_of(&key, budget)? => return Ok(Some(key)),
                    Ok(_) => {}
                    Err(e) => failed = failed.or(Some(e)),
                }
            }
        }
        failed.map_or(Ok(None), Err)
    }
}
