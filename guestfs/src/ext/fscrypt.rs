//! Names that the guest encrypted (fscrypt), shown as its kernel shows them to those without the key: in base64url, with
//! the hashes that find them in the directory, and behind 149 bytes a digest of the rest instead of it. So they can be
//! printed, are different where the names are, and fit into 255 bytes.

use sha2::{Digest, Sha256};

use super::dirhash::Hash;

/// Bytes of a name that are shown as they are.
const SHOWN_MAX: usize = 149;

/// The stored name `name`, whose hashes are `hash`, as it is shown.
pub fn shown(hash: Hash, name: &[u8]) -> Vec<u8> {
    let (head, rest) = name.split_at(name.len().min(SHOWN_MAX));
    let mut bytes = [hash.major.to_le_bytes(), hash.minor.to_le_bytes()].concat();
    bytes.extend_from_slice(head);
    if !rest.is_empty() {
        bytes.extend_from_slice(&Sha256::digest(rest));
    }
    data_encoding::BASE64URL_NOPAD.encode(&bytes).into_bytes()
}
