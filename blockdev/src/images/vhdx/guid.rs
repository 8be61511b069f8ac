//! GUIDs as Microsoft stores them: the first three groups little-endian, the rest byte by byte.

use std::fmt;

/// A GUID as its sixteen bytes in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// No GUID.
    pub const NIL: Self = Self([0; 16]);

    /// The GUID that is written with these digits.
    pub const fn new(digits: u128) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = digits.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = rest;
        Self([d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p])
    }

    /// The GUID written as `{83ed0ec1-24c8-49a6-a959-5e4bd1288480}` or without the braces.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches('{').trim_end_matches('}');
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let all_digits = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        all_digits.then(|| u128::from_str_radix(&digits, 16).ok()).flatten().map(Self::new)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f1, g, h, rest @ ..] = self.0;
        write!(f, "{d:02x}{c:02x}{b:02x}{a:02x}-{f1:02x}{e:02x}-{h:02x}{g:02x}-")?;
        for (i, byte) in rest.iter().enumerate() {
            let dash = if i == 2 { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_written_as_it_was_read() {
        // The region of the block allocation table, as the specification writes it and as files have it.
        let guid = Guid::parse("{2DC27766-F623-4200-9D64-115E9BFD4A08}").unwrap();
        assert_eq!(guid, Guid::new(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08));
        assert_eq!(guid.0[..8], [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42]);
        assert_eq!(guid.to_string(), "2dc27766-f623-4200-9d64-115e9bfd4a08");
        assert!(Guid::parse("2dc27766-f623-4200-9d64-115e9bfd4a0").is_none());
        assert!(Guid::parse("+dc27766-f623-4200-9d64-115e9bfd4a08").is_none());
    }
}
