//! The identifiers in a container: made from what the disk is, so that the same disk always gives the same bytes.

use sha2::{Digest, Sha256};

/// What all identifiers of a container are made from.
#[derive(Debug, Clone)]
pub struct Identity(Sha256);

impl Identity {
    /// The identity that `bytes` stand for.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(
            Sha256::new_with_prefix(b"revenant container\0")
                .chain_update((bytes.len() as u64).to_le_bytes())
                .chain_update(bytes),
        )
    }

    /// The UUID for `purpose`, in network byte order (RFC 9562, version 8: made by a rule of our own).
    #[must_use]
    pub fn uuid(&self, purpose: &str) -> [u8; 16] {
        let mut uuid = self.bytes(purpose);
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }

    /// The UUID for `purpose` as Microsoft stores a GUID: the first three fields little-endian.
    #[must_use]
    pub fn guid(&self, purpose: &str) -> [u8; 16] {
        mixed_endian(self.uuid(purpose))
    }

    /// 16 bytes for `purpose`.
    #[must_use]
    pub fn bytes(&self, purpose: &str) -> [u8; 16] {
        let hash: [u8; 32] = self.0.clone().chain_update(purpose).finalize().into();
        let [first, _] = hash.as_chunks::<16>().0 else { return [0; 16] };
        *first
    }
}

/// A UUID in network byte order as Microsoft stores it: the first three fields little-endian.
#[must_use]
pub fn mixed_endian(mut uuid: [u8; 16]) -> [u8; 16] {
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    uuid
}
