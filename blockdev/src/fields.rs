//! Fields of on-disk structures. A field that lies past the end of what was read is zero, or empty: the structure's own
//! checks (magic, checksum, range) then refuse it, and nothing can panic.

use crate::{ReadAt, Result};

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|b| b.try_into().ok());
    found.unwrap_or([0; N])
}

/// The little-endian 16-bit number at `at`.
#[must_use]
pub fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

/// The little-endian 32-bit number at `at`.
#[must_use]
pub fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// The little-endian 64-bit number at `at`.
#[must_use]
pub fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// The big-endian 16-bit number at `at`.
#[must_use]
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

/// The big-endian 32-bit number at `at`.
#[must_use]
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// The big-endian 64-bit number at `at`.
#[must_use]
pub fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

/// The `len` bytes at `at`, or fewer where they end before.
#[must_use]
pub fn slice(bytes: &[u8], at: usize, len: usize) -> &[u8] {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.get(..len).unwrap_or(rest)
}

/// The UUID at `at` in the order of RFC 9562; `None` when it is all zeros.
#[must_use]
pub fn uuid(bytes: &[u8], at: usize) -> Option<String> {
    let uuid = uuid::Uuid::from_bytes(array(bytes, at));
    (!uuid.is_nil()).then(|| uuid.to_string())
}

/// The GUID at `at` in Microsoft's mixed order, in upper case as partition tools write it.
#[must_use]
pub fn guid(bytes: &[u8], at: usize) -> Option<String> {
    let uuid = uuid::Uuid::from_bytes_le(array(bytes, at));
    (!uuid.is_nil()).then(|| format!("{uuid:X}"))
}

/// The text in `bytes` up to the first NUL, without spaces at its end; `None` when there is none.
#[must_use]
pub fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    shown(&String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()))
}

/// The UTF-16LE text in `bytes` up to the first NUL.
#[must_use]
pub fn utf16(bytes: &[u8]) -> Option<String> {
    let units = bytes.chunks_exact(2).map(|pair| le16(pair, 0)).take_while(|unit| *unit != 0);
    shown(&char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>())
}

/// Text from a disk is shown on terminals: what would steer one is replaced.
fn shown(text: &str) -> Option<String> {
    let text = text.trim_end_matches(' ');
    let clean = text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c });
    (!text.is_empty()).then(|| clean.collect())
}

/// What a device has at `offset`: `len` bytes, or fewer at its end.
///
/// # Errors
///
/// When it cannot be read.
pub fn read(device: &(impl ReadAt + ?Sized), offset: u64, len: usize) -> Result<Vec<u8>> {
    let len = usize::try_from(device.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
    let mut bytes = vec![0; len];
    let n = device.read_at(&mut bytes, offset)?;
    bytes.truncate(n);
    Ok(bytes)
}
