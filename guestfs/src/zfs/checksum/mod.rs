//! The checksums of blocks.
//!
//! A checksum is four words. Fletcher's sums are computed over words of the block's byte order; of a digest the words are
//! its bytes, read in the block's order, but for SHA-256, whose words are big-endian on every host. Skein, Edon-R and
//! BLAKE3 are keyed with a salt that the pool keeps among its metadata.

mod edonr;
mod embedded;
mod fletcher;
mod skein;

use std::sync::OnceLock;

use blockdev::{Error, Result};
use sha2::{Digest, Sha256, Sha512_256};

pub use self::embedded::{Verifier, verify};
use super::order::Order;

/// A checksum.
pub type Words = [u64; 4];

// Checksum functions (`zio_checksum`).
const OFF: u8 = 2;
const ZILOG: u8 = 5;
const FLETCHER_2: u8 = 6;
const FLETCHER_4: u8 = 7;
const SHA_256: u8 = 8;
const ZILOG_2: u8 = 9;
const NO_PARITY: u8 = 10;
const SHA_512_256: u8 = 11;
const SKEIN: u8 = 12;
const EDON_R: u8 = 13;
const BLAKE_3: u8 = 14;

/// What checksums are computed with in one pool.
#[derive(Default)]
pub struct Checksums {
    salted: OnceLock<Salted>,
}

struct Salted {
    skein: skein::Keyed,
    edonr: edonr::Keyed,
    blake3: blake3::Hasher,
}

impl Checksums {
    /// From now on the salt is `salt`.
    pub fn set_salt(&self, salt: &[u8; 32]) {
        self.salted.get_or_init(|| Salted {
            skein: skein::Keyed::new(salt),
            edonr: edonr::Keyed::new(salt),
            blake3: blake3::Hasher::new_keyed(salt),
        });
    }

    /// Whether `block`, which is in `order`, has the checksum `expected` of the function `kind`.
    ///
    /// # Errors
    ///
    /// `Unsupported` when the function is not known, `Damaged` when it makes no sense for a block or needs a salt that
    /// the pool does not have.
    pub fn is_right(&self, kind: u8, order: Order, block: &[u8], expected: &Words) -> Result<bool> {
        let found = match kind {
            OFF | NO_PARITY => return Ok(true),
            FLETCHER_2 => fletcher::two(block, order),
            FLETCHER_4 => fletcher::four(block, order),
            SHA_256 => sha256(block),
            SHA_512_256 => order.words(&Sha512_256::digest(block), 0),
            SKEIN => order.words(&self.salted()?.skein.digest(block), 0),
            EDON_R => order.words(&self.salted()?.edonr.digest(block), 0),
            BLAKE_3 => order.words(self.salted()?.blake3.clone().update(block).finalize().as_bytes(), 0),
            0..=ZILOG | ZILOG_2 => return Err(Error::damaged(format!("a block claims checksum function {kind}"))),
            _ => return Err(Error::unsupported(format!("checksum function {kind} is not known here"))),
        };
        Ok(found == *expected || cfg!(fuzzing))
    }

    fn salted(&self) -> Result<&Salted> {
        self.salted.get().ok_or_else(|| Error::damaged("a block has a salted checksum, and the pool has no salt"))
    }
}

/// The SHA-256 checksum of `block`, as it is stored on hosts of either byte order.
fn sha256(block: &[u8]) -> Words {
    Order::Big.words(&Sha256::digest(block), 0)
}
