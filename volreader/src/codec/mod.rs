//! Decoding one piece of content: decompression (this module) and taking BackupRead data apart ([`win32`]).
//!
//! A *piece* is what the File daemon read at once and compressed on its own, 64 KiB of content unless the
//! *Maximum Network Buffer Size* was changed (format reference, section 7). Pieces are independent of each
//! other, so any of them can be decoded alone, on any thread. All decoders are bounded by what the caller
//! allows: hostile input costs at most `limit` bytes of memory and time in proportion to them.

pub mod win32;
mod zlib;
mod zstd;

use blockdev::{Error, ErrorKind, Result, codec::lzo};

use crate::stream::Compression;

/// What one piece decodes to under the default buffer size; the first guess at the room it needs.
const USUAL_PIECE: usize = 64 * 1024;

/// An algorithm that a compression header can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// LZO1X.
    Lzo,
    /// One Zstandard frame.
    Zstd,
    /// One zlib stream.
    Zlib,
    /// As it is.
    None,
}

/// The compression header in front of each piece of streams 29 to 33: 12 bytes, big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressionHeader {
    /// How the data after the header is compressed.
    pub algorithm: Algorithm,
    /// Bytes of compressed data after the header.
    pub length: u32,
    /// Compression level, for information.
    pub level: u16,
}

impl CompressionHeader {
    /// Bytes on the volume.
    pub const LEN: usize = 12;

    /// Take the header off the front of `piece`: the header and the compressed data after it.
    ///
    /// # Errors
    ///
    /// `Damaged` when `piece` is cut or its length is not what the header says, `Unsupported` for an
    /// algorithm or header version that Bacula up to 15.0 does not have.
    pub fn split(piece: &[u8]) -> Result<(Self, &[u8])> {
        let Some((header, data)) = piece.split_first_chunk::<{ Self::LEN }>() else {
            return Err(Error::damaged(format!("compressed data of {} bytes has no whole header", piece.len())));
        };
        let [a, b, c, d, l0, l1, l2, l3, level0, level1, version0, version1] = *header;
        let algorithm = match &[a, b, c, d] {
            b"LZOX" => Algorithm::Lzo,
            b"LZOY" => Algorithm::Zstd,
            b"GZIP" => Algorithm::Zlib,
            b"NONE" => Algorithm::None,
            id => {
                return Err(Error::unsupported(format!(
                    "compression algorithm {:#010x} is not one of Bacula's",
                    u32::from_be_bytes(*id)
                )));
            }
        };
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let version = u16::from_be_bytes([version0, version1]);
        if version != 1 {
            return Err(Error::unsupported(format!("compression header of version {version}, known is 1")));
        }
        if u64::from(length) != data.len() as u64 {
            return Err(Error::damaged(format!(
                "compression header tells {length} bytes of data, there are {}",
                data.len()
            )));
        }
        Ok((Self { algorithm, length, level: u16::from_be_bytes([level0, level1]) }, data))
    }
}

/// Decode one piece and append it to `output`, at most `limit` bytes. On failure `output` is as it was.
///
/// # Errors
///
/// `Damaged` when the piece contradicts itself, `Limit` when it decodes to more than `limit` bytes,
/// `Unsupported` for an unknown compression header.
pub fn decode(kind: Compression, input: &[u8], output: &mut Vec<u8>, limit: usize) -> Result<()> {
    let (algorithm, input) = match kind {
        Compression::None => (Algorithm::None, input),
        Compression::Zlib => (Algorithm::Zlib, input),
        Compression::Header => {
            let (header, data) = CompressionHeader::split(input)?;
            (header.algorithm, data)
        }
    };
    match algorithm {
        Algorithm::None if input.len() > limit => Err(over(limit)),
        Algorithm::None => {
            output.extend_from_slice(input);
            Ok(())
        }
        Algorithm::Zlib => append(output, limit, 0, |room| zlib::decode(input, room)),
        Algorithm::Lzo => append(output, limit, lzo::SLACK, |room| Ok(lzo::decode(input, room)?)),
        Algorithm::Zstd => append(output, limit, 0, |room| zstd::decode(input, room)),
    }
}

/// Why a decoder stopped.
#[derive(Debug)]
enum Failure {
    /// The room given does not suffice.
    Room,
    /// The input is not what it should be.
    Damaged(Error),
}

impl From<lzo::Failure> for Failure {
    fn from(failure: lzo::Failure) -> Self {
        match failure {
            lzo::Failure::Room => Self::Room,
            lzo::Failure::Damaged(error) => Self::Damaged(error.context("a piece")),
        }
    }
}

/// Run `decoder` on room at the end of `output` and keep what it wrote.
///
/// How much a piece decodes to is not stored. Nearly always it is [`USUAL_PIECE`] at most, so that is tried
/// first; a piece that needs more is decoded again with four times the room, up to `limit`. `slack` more bytes
/// than asked for are given to a decoder that writes in wide steps; they are no room for output.
fn append(
    output: &mut Vec<u8>,
    limit: usize,
    slack: usize,
    mut decoder: impl FnMut(&mut [u8]) -> std::result::Result<usize, Failure>,
) -> Result<()> {
    let start = output.len();
    let mut room = USUAL_PIECE.min(limit);
    loop {
        let end = start.checked_add(room).and_then(|end| end.checked_add(slack)).ok_or_else(|| over(limit))?;
        output.resize(end, 0);
        let outcome = decoder(output.get_mut(start..).unwrap_or_default());
        let written = match outcome {
            Ok(written) => written,
            Err(Failure::Room) if room < limit => {
                room = room.saturating_mul(4).min(limit);
                continue;
            }
            Err(failure) => {
                output.truncate(start);
                return Err(match failure {
                    Failure::Room => over(limit),
                    Failure::Damaged(error) => error,
                });
            }
        };
        output.truncate(start.saturating_add(written));
        return Ok(());
    }
}

fn over(limit: usize) -> Error {
    Error::new(ErrorKind::Limit, format!("a piece of content decodes to more than the {limit} bytes allowed"))
}

#[cfg(test)]
mod tests;
