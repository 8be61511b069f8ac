//! Text: keys and their values (RFC 7143 section 6).

use std::fmt::Write;

use base64ct::{Base64, Encoding};

/// Longest key and value (6.1): a value of 8192 bytes, and room for its key.
const MOST_VALUE: usize = 8192;
/// Most keys in one text.
const MOST_KEYS: usize = 256;

/// The keys of a text and their values, in order. `None` when it is none.
pub(crate) fn parse(text: &[u8]) -> Option<Vec<(&str, &str)>> {
    let mut pairs = Vec::new();
    for part in text.split(|byte| *byte == 0).filter(|part| !part.is_empty()) {
        let (key, value) = std::str::from_utf8(part).ok()?.split_once('=')?;
        if key.is_empty() || key.len() > 63 || value.len() > MOST_VALUE || pairs.len() >= MOST_KEYS {
            return None;
        }
        pairs.push((key, value));
    }
    Some(pairs)
}

/// A text that is being written.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

impl Text {
    pub(crate) fn add(&mut self, key: &str, value: impl std::fmt::Display) {
        // Writing into a string cannot fail.
        let _ = write!(self.0, "{key}={value}\0");
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

/// A binary value (6.1): `0x` and hexadecimal digits, or `0b` and base 64; of at most `most` bytes.
pub(crate) fn binary(value: &str, most: usize) -> Option<Vec<u8>> {
    let bytes = match value.split_at_checked(2)? {
        ("0x" | "0X", digits) => {
            let digits = digits.as_bytes();
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            // An odd number of digits has a zero before it.
            let (first, pairs) = digits.split_at(digits.len() % 2);
            let pairs = pairs.as_chunks::<2>().0;
            let first = first.iter().map(|byte| digit(*byte));
            first.chain(pairs.iter().map(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?))).collect::<Option<Vec<u8>>>()?
        }
        ("0b" | "0B", text) => Base64::decode_vec(text).ok()?,
        _ => return None,
    };
    (bytes.len() <= most).then_some(bytes)
}

/// A binary value in hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("0x"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A number (6.1), decimal or hexadecimal.
pub(crate) fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

/// Whether a name is one that iSCSI has (4.2.7): `iqn.`, `eui.` or `naa.`, of up to 223 bytes of letters, digits and `-.:`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let kind = ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind));
    let allowed = |c: char| c.is_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | ':');
    kind && name.len() > 4 && name.len() <= 223 && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        assert_eq!(parse(b"A=1\0B=\0C=x=y\0"), Some(vec![("A", "1"), ("B", ""), ("C", "x=y")]));
        assert_eq!(parse(b""), Some(vec![]));
        for bad in [&b"A\0"[..], b"=1\0", b"A=\xff\0"] {
            assert_eq!(parse(bad), None);
        }
        assert_eq!(parse(&b"A=1\0".repeat(257)), None);
    }

    #[test]
    fn values() {
        assert_eq!(binary("0x0aFf", 16), Some(vec![0x0a, 0xff]));
        assert_eq!(binary("0xaff", 16), Some(vec![0x0a, 0xff]));
        assert_eq!(binary("0bAQID", 16), Some(vec![1, 2, 3]));
        for bad in ["", "0x0g", "0b*", "0102", "0x010203"] {
            assert_eq!(binary(bad, 2), None, "{bad}");
        }
        assert_eq!(hexadecimal(&[0, 0xab]), "0x00ab");
        assert_eq!(
            (number("0x10"), number("16"), number("-1"), number("4294967296")),
            (Some(16), Some(16), None, None)
        );
    }

    #[test]
    fn names() {
        assert!(is_name("iqn.2026-01.org.revenant:web01"));
        assert!(is_name("naa.52004567ba64678d"));
        for bad in ["iqn.", "web01", "iqn.2026-01.org.Revenant:web01", "iqn.2026-01.a b", "iqn.2026-01.a\0b"] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(!is_name(&format!("iqn.{}", "a".repeat(220))));
    }
}
