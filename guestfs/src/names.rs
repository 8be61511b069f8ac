//! Names that are stored in UTF-16.

/// The UTF-16 units `units` as UTF-8; a surrogate without its partner becomes the three bytes that UTF-8 would have for
/// it (WTF-8), so that the name can be found again.
pub fn from_utf16(units: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut name = Vec::new();
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(c) => name.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let unit = lone.unpaired_surrogate();
                name.extend([0xe0 | (unit >> 12) as u8, 0x80 | (unit >> 6 & 0x3f) as u8, 0x80 | (unit & 0x3f) as u8]);
            }
        }
    }
    name
}

/// The same for little-endian bytes; an odd byte at the end is left out.
pub fn from_utf16le(bytes: &[u8]) -> Vec<u8> {
    from_utf16(bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_different() {
        assert_eq!(from_utf16("ümläut-😀".encode_utf16()), "ümläut-😀".as_bytes());
        assert_eq!(from_utf16([0x61, 0xd800, 0x62]), b"a\xed\xa0\x80b");
        assert_eq!(from_utf16([0xdc00, 0xd800]), b"\xed\xb0\x80\xed\xa0\x80");
        assert_eq!(from_utf16le(b"a\0b\0c"), b"ab");
    }
}
