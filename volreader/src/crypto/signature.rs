//! Signed digests: stream 19 (format reference, section 9).
//!
//! The signature is RSA with PKCS #1 v1.5 over the digest of the same bytes that the plain digest covers, so
//! whoever reads the file anyway computes it with [`crate::digest::Hasher`] and asks here.

use blockdev::{Error, Result};
use der::{
    Reader, SliceReader,
    asn1::{ObjectIdentifier, OctetStringRef},
    oid::AssociatedOid,
};
use md5::Md5;
use rsa::Pkcs1v15Sign;
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use super::{
    Hex,
    pki::{KeyRing, read_set, read_version},
};
use crate::digest::Algorithm;

/// Longest record looked at; a signer takes about 300 bytes.
const MAX_RECORD: usize = 64 * 1024;

/// What came of checking a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Signed by a key of the ring, and it is the digest that was signed.
    Valid,
    /// Signed by a key of the ring, but not this digest: the content or the signature was changed.
    Wrong,
    /// The ring has no key of a signer.
    NoKey,
}

/// A file's signed digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedDigest {
    algorithm: Algorithm,
    signers: Vec<Signer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Signer {
    key_id: Vec<u8>,
    signature: Vec<u8>,
}

impl SignedDigest {
    /// Read the payload of stream 19.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is no signed digest, `Unsupported` when the digest is none that Bacula uses.
    pub fn parse(record: &[u8]) -> Result<Self> {
        if record.len() > MAX_RECORD {
            return Err(Error::damaged(format!("signed digest of {} bytes", record.len())));
        }
        let signers = Self::read(record).map_err(|error| Error::damaged(format!("signed digest: {error}")))?;
        let Some(oid) = signers.first().map(|(oid, _)| *oid) else {
            return Err(Error::damaged("signed digest without a signer"));
        };
        if signers.iter().any(|(other, _)| *other != oid) {
            return Err(Error::unsupported("signed digest with several digest algorithms"));
        }
        let algorithm = match oid {
            Md5::OID => Algorithm::Md5,
            Sha1::OID => Algorithm::Sha1,
            Sha256::OID => Algorithm::Sha256,
            Sha512::OID => Algorithm::Sha512,
            other => return Err(Error::unsupported(format!("signed digest with an unknown algorithm, {other}"))),
        };
        Ok(Self { algorithm, signers: signers.into_iter().map(|(_, signer)| signer).collect() })
    }

    fn read(record: &[u8]) -> der::Result<Vec<(ObjectIdentifier, Signer)>> {
        let mut record = SliceReader::new(record)?;
        let signers = record.sequence(|fields| {
            read_version(fields)?;
            read_set(fields, |signer| {
                read_version(signer)?;
                let key_id = signer.decode::<&OctetStringRef>()?.as_bytes().to_vec();
                let digest = signer.decode()?;
                // RSA; there is no other.
                signer.decode::<ObjectIdentifier>()?;
                let signature = signer.decode::<&OctetStringRef>()?.as_bytes().to_vec();
                Ok((digest, Signer { key_id, signature }))
            })
        })?;
        record.finish()?;
        Ok(signers)
    }

    /// The algorithm of the digest that was signed.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The signers' key identifiers in hex, for messages.
    pub fn signers(&self) -> impl Iterator<Item = String> + '_ {
        self.signers.iter().map(|signer| Hex(&signer.key_id).to_string())
    }

    /// Whether `digest`, of [`Self::algorithm`], is what a signer known to `ring` signed.
    ///
    /// # Errors
    ///
    /// `Invalid` when `digest` does not have the algorithm's length.
    pub fn verify(&self, ring: &KeyRing, digest: &[u8]) -> Result<Verdict> {
        if digest.len() != self.algorithm.value_len() {
            return Err(Error::invalid(format!("{} bytes are no {} value", digest.len(), self.algorithm)));
        }
        let scheme = match self.algorithm {
            Algorithm::Md5 => Pkcs1v15Sign::new::<Md5>(),
            Algorithm::Sha1 => Pkcs1v15Sign::new::<Sha1>(),
            Algorithm::Sha256 => Pkcs1v15Sign::new::<Sha256>(),
            Algorithm::Sha512 => Pkcs1v15Sign::new::<Sha512>(),
            Algorithm::Xxh64 | Algorithm::Xxh3_64 | Algorithm::Xxh3_128 => {
                return Err(Error::unsupported(format!("{} values are never signed", self.algorithm)));
            }
        };
        let mut verdict = Verdict::NoKey;
        for signer in &self.signers {
            if let Some(key) = ring.public_key(&signer.key_id) {
                if key.verify(scheme.clone(), digest, &signer.signature).is_ok() {
                    return Ok(Verdict::Valid);
                }
                verdict = Verdict::Wrong;
            }
        }
        Ok(verdict)
    }
}
