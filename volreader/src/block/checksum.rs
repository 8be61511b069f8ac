//! Block checksums: CRC-32 in BB02, XXH3-64 in BB03, over bytes that may lie in several pieces.
//!
//! BB02: the reflected CRC-32 of zlib over all but the checksum itself. BB03: XXH3-64, seed 0, over the whole
//! block with the checksum's place taken as zeros, and over the plaintext of an encrypted block.

use xxhash_rust::xxh3::Xxh3;

use super::{Format, Header};

/// What a block's checksum says of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are those that were written.
    Good,
    /// They are not.
    Bad,
    /// The block was written without a checksum.
    Absent,
}

/// Compare `header`'s checksum with `pieces`, which together are the block's (decrypted) bytes from its first
/// byte on. The header must be wholly in the first piece.
#[must_use]
pub fn verify(header: &Header, pieces: &[&[u8]]) -> Verdict {
    let Some(stored) = header.checksum else { return Verdict::Absent };
    let Some((first, rest)) = pieces.split_first() else { return Verdict::Bad };
    let Some((head, body)) = first.split_at_checked(header.header_len() as usize) else { return Verdict::Bad };
    let computed = match header.format {
        Format::Bb02 => {
            let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32IsoHdlc);
            crc.update(&head[4..]);
            crc.update(body);
            rest.iter().for_each(|piece| crc.update(piece));
            crc.finalize()
        }
        Format::Bb03 => {
            let mut hash = Xxh3::new();
            hash.update(&head[..24]);
            hash.update(&[0; 8]);
            hash.update(body);
            rest.iter().for_each(|piece| hash.update(piece));
            hash.digest()
        }
    };
    match (computed == stored, header.format, stored) {
        (true, _, _) => Verdict::Good,
        // BB02 has no flag for "no checksum": devices with `Block Checksum = no` store 0.
        (false, Format::Bb02, 0) => Verdict::Absent,
        (false, _, _) => Verdict::Bad,
    }
}
