//! Keys derived from passphrases: PBKDF2 (RFC 8018) and Argon2 (RFC 9106), with bounds.
//!
//! How much work a derivation is stands in the header of the volume, which may be hostile: it is reckoned before it is
//! done, and taken from a budget.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use pbkdf2::pbkdf2_hmac;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::secrets::Key;
use crate::{Error, ErrorKind, Result};

/// Memory of one derivation in KiB: the most that cryptsetup chooses by itself.
const ARGON2_MEMORY_MAX: u32 = 1 << 20;
/// Lanes: cryptsetup's own bound.
const ARGON2_LANES_MAX: u32 = 4;
/// Iterations of PBKDF2 that a processor does in a second, at least.
const ITERATIONS_A_SECOND: u64 = 400_000;
/// KiB that Argon2 fills in a second, at least.
const KIB_A_SECOND: u64 = 400_000;

/// Milliseconds of a single derivation: three times what cryptsetup chooses on a fast processor takes on a slow one.
const DERIVATION_MAX: u64 = 60_000;

/// Work that may be done to unlock volumes, in milliseconds of a slow processor.
#[derive(Debug)]
pub struct Budget(u64);

impl Default for Budget {
    /// Ten minutes at the worst: some twenty volumes with every secret tried for every slot.
    fn default() -> Self {
        Self(600_000)
    }
}

impl Budget {
    /// So much work.
    #[must_use]
    pub const fn of_milliseconds(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// Takes `milliseconds` of it.
    ///
    /// # Errors
    ///
    /// `Limit` when there are not as many left, or they are too many for one derivation.
    pub fn take(&mut self, milliseconds: u64) -> Result<()> {
        let left = self.0.checked_sub(milliseconds).filter(|_| milliseconds <= DERIVATION_MAX);
        self.0 = left.ok_or_else(|| {
            let seconds = milliseconds.div_ceil(1000);
            let message = format!(
                "trying a secret would take some {seconds} seconds more, which is past the bound for the volumes of one \
                 machine: give fewer secrets, or unlock the volume with its own tools"
            );
            Error::new(ErrorKind::Limit, message)
        })?;
        Ok(())
    }
}

/// A hash function, by the name that headers use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// The function called `name`.
    ///
    /// # Errors
    ///
    /// `Unsupported` for those that nothing made in years.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "sha1" => Ok(Self::Sha1),
            "sha224" => Ok(Self::Sha224),
            "sha256" => Ok(Self::Sha256),
            "sha384" => Ok(Self::Sha384),
            "sha512" => Ok(Self::Sha512),
            _ => Err(Error::unsupported(format!(
                "the hash function {name:?} is not supported: sha1, sha224, sha256, sha384 and sha512 are"
            ))),
        }
    }

    /// Bytes of a digest.
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of `parts`, one after another.
    pub fn digest(self, parts: &[&[u8]]) -> Key {
        fn of<D: Digest>(parts: &[&[u8]]) -> Key {
            let mut digest = D::new();
            parts.iter().for_each(|part| digest.update(part));
            digest.finalize().to_vec().into()
        }
        match self {
            Self::Sha1 => of::<Sha1>(parts),
            Self::Sha224 => of::<Sha224>(parts),
            Self::Sha256 => of::<Sha256>(parts),
            Self::Sha384 => of::<Sha384>(parts),
            Self::Sha512 => of::<Sha512>(parts),
        }
    }
}

/// How a key is derived.
#[derive(Debug, Clone)]
pub enum Kdf {
    /// PBKDF2 with HMAC.
    Pbkdf2 {
        /// The hash function.
        hash: Hash,
        /// How often.
        iterations: u32,
        /// The salt.
        salt: Vec<u8>,
    },
    /// Argon2, version 1.3.
    Argon2 {
        /// Argon2i or Argon2id.
        kind: Algorithm,
        /// Passes over the memory.
        time: u32,
        /// The memory in KiB.
        memory: u32,
        /// Lanes.
        lanes: u32,
        /// The salt.
        salt: Vec<u8>,
    },
}

impl Kdf {
    /// `len` bytes of key for `secret`.
    ///
    /// # Errors
    ///
    /// `Limit` when it is more work or memory than is allowed, `Damaged` for parameters that cannot be.
    pub fn derive(&self, secret: &[u8], len: usize, budget: &mut Budget) -> Result<Key> {
        let mut key = Key::new(vec![0; len]);
        match self {
            Self::Pbkdf2 { hash, iterations, salt } => {
                let blocks = len.div_ceil(hash.len()) as u64;
                budget.take((u64::from(*iterations).saturating_mul(blocks) * 1000).div_ceil(ITERATIONS_A_SECOND))?;
                let derive = match hash {
                    Hash::Sha1 => pbkdf2_hmac::<Sha1>,
                    Hash::Sha224 => pbkdf2_hmac::<Sha224>,
                    Hash::Sha256 => pbkdf2_hmac::<Sha256>,
                    Hash::Sha384 => pbkdf2_hmac::<Sha384>,
                    Hash::Sha512 => pbkdf2_hmac::<Sha512>,
                };
                derive(secret, salt, *iterations, &mut key);
            }
            Self::Argon2 { kind, time, memory, lanes, salt } => {
                if *memory > ARGON2_MEMORY_MAX {
                    let gib = ARGON2_MEMORY_MAX >> 20;
                    return Err(Error::new(
                        ErrorKind::Limit,
                        format!("its key needs {memory} KiB of memory to be derived, where {gib} GiB is the bound"),
                    ));
                }
                if *lanes > ARGON2_LANES_MAX {
                    return Err(Error::damaged(format!("Argon2 with {lanes} lanes, where 4 are the most")));
                }
                budget.take((u64::from(*memory).saturating_mul(u64::from(*time)) * 1000).div_ceil(KIB_A_SECOND))?;
                let impossible =
                    |e: argon2::Error| Error::damaged(format!("the parameters of Argon2 make no sense: {e}"));
                let params = Params::new(*memory, *time, *lanes, Some(len)).map_err(impossible)?;
                let mut blocks = memory_of(params.block_count())?;
                Argon2::new(*kind, Version::V0x13, params)
                    .hash_password_into_with_memory(secret, salt, &mut key, &mut blocks)
                    .map_err(impossible)?;
            }
        }
        Ok(key)
    }
}

/// The memory that Argon2 fills.
fn memory_of(blocks: usize) -> Result<Vec<Block>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(blocks).map_err(|_| {
        Error::new(ErrorKind::Limit, format!("there are no {blocks} KiB of memory to derive its key in"))
    })?;
    memory.resize(blocks, Block::default());
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_header_takes_no_memory_and_no_time() {
        let argon2 =
            |time, memory, lanes| Kdf::Argon2 { kind: Algorithm::Argon2id, time, memory, lanes, salt: vec![0; 16] };
        for (kdf, kind) in [
            (argon2(4, u32::MAX, 4), ErrorKind::Limit),
            (argon2(u32::MAX, 1 << 20, 4), ErrorKind::Limit),
            (argon2(4, 1 << 10, 1 << 20), ErrorKind::Damaged),
            (argon2(0, 1 << 10, 1), ErrorKind::Damaged),
            (argon2(1, 0, 1), ErrorKind::Damaged),
            (Kdf::Pbkdf2 { hash: Hash::Sha512, iterations: u32::MAX, salt: vec![] }, ErrorKind::Limit),
        ] {
            let error = kdf.derive(b"secret", 64, &mut Budget::default()).expect_err("refused");
            assert_eq!(error.kind(), kind, "{error}");
        }
    }

    #[test]
    fn work_is_taken_from_the_budget() {
        let mut budget = Budget(100);
        budget.take(60).expect("enough");
        assert_eq!(budget.take(60).expect_err("not enough").kind(), ErrorKind::Limit);
        budget.take(40).expect("just enough");
    }

    /// RFC 6070, and the RFC 9106 function as dissect's tests have it would take a gigabyte: the volumes of the tests
    /// prove it.
    #[test]
    fn pbkdf2_is_the_one_of_the_standard() {
        let kdf = Kdf::Pbkdf2 { hash: Hash::Sha1, iterations: 4096, salt: b"salt".to_vec() };
        let key = kdf.derive(b"password", 20, &mut Budget::default()).expect("derived");
        assert_eq!(key[..4], [0x4b, 0x00, 0x79, 0x01]);
    }
}
