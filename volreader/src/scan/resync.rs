//! Finding the next block behind damage.

use blockdev::Result;

use crate::{block::checksum, medium::Address, volume::Volume};

const CHUNK: usize = 256 << 10;
/// Offset of the magic in a block.
const MAGIC_AT: u64 = 12;

/// The address of the first block at or after `from`, or `end`.
///
/// A magic can stand in a file's data, too, so a block counts only if its checksum is right or, where it has
/// none, if another block header follows it.
///
/// # Errors
///
/// When the volume cannot be read.
pub fn next_block(volume: &Volume, from: Address, end: Address) -> Result<Address> {
    let mut buf = vec![0; CHUNK];
    let mut base = from + MAGIC_AT;
    while base < end {
        let n = volume.medium().read_at(&mut buf, base)?;
        for i in memchr::memmem::find_iter(&buf[..n], b"BB0") {
            let candidate = base + i as u64 - MAGIC_AT;
            if is_block(volume, candidate, end)? {
                return Ok(candidate);
            }
        }
        if n < 4 {
            break;
        }
        base += n as u64 - 3;
    }
    Ok(end)
}

fn is_block(volume: &Volume, at: Address, end: Address) -> Result<bool> {
    let Some(header) = volume.block_header(at)? else { return Ok(false) };
    let next = at + u64::from(header.len);
    if next > end {
        return Ok(false);
    }
    if next == end || volume.block_header(next)?.is_some() {
        return Ok(true);
    }
    // What follows is damaged as well: then its own checksum has to speak for it.
    let bytes = match volume.read_block(at, &header) {
        Ok(bytes) => bytes,
        Err(_) => return Ok(false),
    };
    Ok(bytes.len() == header.len as usize && checksum::verify(&header, &[&bytes]) == checksum::Verdict::Good)
}
