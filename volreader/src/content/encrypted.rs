//! Encrypted content: one CBC stream a file, holding length-prefixed pieces.
//!
//! CBC can be entered anywhere with the ciphertext block before, so neither finding nor decoding a piece needs
//! what comes before it.

use std::sync::Arc;

use blockdev::{Error, ReadAt, Result};

use super::{
    pieces::{MAX_PIECE, PieceCache, PieceSource, Place},
    verbatim::Plain,
};
use crate::{
    codec,
    crypto::pki::{self, SessionKey},
    session::SessionData,
    stream::Compression,
};

const CIPHER_BLOCK: u64 = 16;
/// In front of each piece stands its length.
const FRAME_HEADER: u64 = 4;

/// The decrypted data records of one file.
#[derive(Debug)]
pub struct Frames {
    cipher: Plain,
    key: Arc<SessionKey>,
    compression: Compression,
    /// Plaintext bytes, padding excepted.
    len: u64,
}

impl Frames {
    /// Decrypt `cipher` with `key`.
    ///
    /// # Errors
    ///
    /// `Damaged` when the end makes no sense (damaged, cut off, or another key).
    pub fn new(cipher: Plain, key: Arc<SessionKey>, compression: Compression) -> Result<Self> {
        let size = cipher.size();
        let mut frames = Self { cipher, key, compression, len: size };
        if size == 0 {
            return Ok(frames);
        }
        let last = frames.read(size - CIPHER_BLOCK.min(size), CIPHER_BLOCK.min(size))?;
        frames.len = size - pki::padding_len(&last)? as u64;
        Ok(frames)
    }

    /// `len` plaintext bytes at `offset`.
    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let end = offset.checked_add(len).filter(|e| *e <= self.len);
        let end = end.ok_or_else(|| Error::damaged("an encrypted piece goes over the end of its file"))?;
        let start = offset / CIPHER_BLOCK * CIPHER_BLOCK;
        let stop = end.div_ceil(CIPHER_BLOCK) * CIPHER_BLOCK;
        let lead = CIPHER_BLOCK.min(start);
        let mut bytes = vec![0; (stop - start + lead) as usize];
        if self.cipher.read_at(&mut bytes, start - lead)? < bytes.len() {
            return Err(Error::damaged("the encrypted data is no whole number of cipher blocks"));
        }
        let (previous, body) = bytes.split_at_mut(lead as usize);
        let previous = previous.first_chunk().unwrap_or_else(|| self.key.iv());
        self.key.decrypt(previous, body)?;
        let from = (offset - start) as usize;
        Ok(body[from..from + len as usize].to_vec())
    }

    fn frame(&self, place: Place) -> Result<u64> {
        let header = self.read(place, FRAME_HEADER)?;
        let len = header.first_chunk().map_or(0, |b| u64::from(u32::from_be_bytes(*b)));
        if len > MAX_PIECE as u64 {
            return Err(Error::damaged("the decrypted data makes no sense: damaged, or encrypted for another key"));
        }
        Ok(len)
    }

    /// The job's data.
    #[must_use]
    pub fn data(&self) -> &Arc<SessionData> {
        &self.cipher.raw.data
    }
}

impl PieceSource for Frames {
    fn look(&self, from: Place) -> Result<Option<(Place, Option<u64>)>> {
        Ok((from < self.len).then_some((from, None)))
    }

    fn behind(&self, place: Place) -> Result<Place> {
        Ok(place + FRAME_HEADER + self.frame(place)?)
    }

    fn recover(&self, _place: Place) -> Result<Option<Place>> {
        // Frame lengths are only in the frames: behind a lost one nothing says where the next starts.
        Ok(None)
    }

    fn offset(&self, _place: Place) -> Result<Option<u64>> {
        Ok(None)
    }

    fn decode(&self, place: Place, out: &mut Vec<u8>) -> Result<()> {
        let len = self.frame(place)?;
        let body = self.read(place + FRAME_HEADER, len)?;
        codec::decode(self.compression, &body, out, MAX_PIECE)
    }

    fn is_sparse(&self) -> bool {
        false
    }

    fn cache(&self) -> Option<&PieceCache> {
        Some(self.cipher.raw.data.store().pieces())
    }
}
