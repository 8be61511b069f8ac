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

/// The name in UTF-16LE that [`from_utf16le`] gives as `name`; `None` if there is none.
pub fn to_utf16le(name: &[u8]) -> Option<Vec<u8>> {
    let (mut units, mut rest) = (Vec::with_capacity(2 * name.len()), name);
    loop {
        let (text, tail) = match std::str::from_utf8(rest) {
            Ok(text) => (text, &[][..]),
            Err(e) => (std::str::from_utf8(rest.get(..e.valid_up_to())?).ok()?, rest.get(e.valid_up_to()..)?),
        };
        units.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
        match tail {
            [] => break,
            [0xed, b @ 0xa0..=0xbf, c @ 0x80..=0xbf, tail @ ..] => {
                units.extend((0xd000 | u16::from(b & 0x3f) << 6 | u16::from(c & 0x3f)).to_le_bytes());
                rest = tail;
            }
            _ => return None,
        }
    }
    // Two halves that follow on each other are one character: spelled so it is not the name.
    (from_utf16le(&units) == name).then_some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        for name in ["ümläut-😀".as_bytes(), b"a\xed\xa0\x80b", b"\xed\xb0\x80\xed\xa0\x80", b""] {
            assert_eq!(from_utf16le(&to_utf16le(name).unwrap()), name);
        }
        for other in [&b"\xff"[..], b"a\xed\xa0", b"\xed\xa0\x80\xed\xb0\x80", b"\xc0\x80"] {
            assert_eq!(to_utf16le(other), None, "{other:x?}");
        }
    }

    #[test]
    fn names_stay_different() {
        assert_eq!(from_utf16("ümläut-😀".encode_utf16()), "ümläut-😀".as_bytes());
        assert_eq!(from_utf16([0x61, 0xd800, 0x62]), b"a\xed\xa0\x80b");
        assert_eq!(from_utf16([0xdc00, 0xd800]), b"\xed\xb0\x80\xed\xa0\x80");
        assert_eq!(from_utf16le(b"a\0b\0c"), b"ab");
    }
}
