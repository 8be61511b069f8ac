//! Names of guests as names of the tree, and back.
//!
//! A guest may call a file what Unix cannot: with `/`, NUL, as `.` or `..`, longer than 255 bytes. Such a byte is shown as
//! `%` and two hexadecimal digits (`a/b` as `a%2Fb`), and so is a `%` that would otherwise be taken for one of these. A
//! longer name keeps its beginning, and ends in `%~` and a hash of the whole. Every other name stays as it is.

use std::borrow::Cow;

/// The longest name of the tree, in bytes.
const LEN_MAX: usize = 255;

/// What ends a name that was cut: `%~` and the digits of a 64-bit hash.
const MARK: &[u8] = b"%~";
const TAIL: usize = MARK.len() + 16;

/// The name of the tree for the guest's name `stored`.
pub fn shown(stored: &[u8]) -> Cow<'_, [u8]> {
    let plain = |(at, byte): (usize, &u8)| !must_escape(stored, at, *byte);
    let whole: Cow<'_, [u8]> = match stored {
        b"." => Cow::Borrowed(b"%2E"),
        b".." => Cow::Borrowed(b"%2E%2E"),
        b"" => Cow::Borrowed(b"%"),
        _ if stored.iter().enumerate().all(plain) => Cow::Borrowed(stored),
        _ => {
            let mut name = Vec::with_capacity(stored.len() + 8);
            for (at, &byte) in stored.iter().enumerate() {
                if must_escape(stored, at, byte) {
                    name.extend(format!("%{byte:02X}").into_bytes());
                } else {
                    name.push(byte);
                }
            }
            Cow::Owned(name)
        }
    };
    if whole.len() <= LEN_MAX { whole } else { Cow::Owned(cut(&whole)) }
}

/// Which name of the guest is meant by a name of the tree.
#[derive(Debug, PartialEq, Eq)]
pub enum Meant<'a> {
    /// This.
    Exactly(Cow<'a, [u8]>),
    /// The one that is shown so: a cut name does not say it.
    ShownSo,
    /// None: no name is shown so.
    Nothing,
}

/// The guest's name for the name of the tree `name`.
pub fn meant(name: &[u8]) -> Meant<'_> {
    if name.len() >= TAIL && is_tail(&name[name.len() - TAIL..]) {
        return Meant::ShownSo;
    }
    if !name.contains(&b'%') {
        return Meant::Exactly(Cow::Borrowed(name));
    }
    let mut stored = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        match escaped_byte(rest) {
            Some(escaped) => {
                stored.push(escaped);
                rest = &rest[3..];
            }
            None => {
                stored.push(byte);
                rest = tail;
            }
        }
    }
    if name == b"%" {
        stored.clear();
    }
    // Only what is shown so is meant: otherwise one file would have two names.
    if *shown(&stored) == *name { Meant::Exactly(Cow::Owned(stored)) } else { Meant::Nothing }
}

fn must_escape(name: &[u8], at: usize, byte: u8) -> bool {
    match byte {
        b'/' | 0 => true,
        b'%' => {
            let rest = name.get(at..).unwrap_or_default();
            name.len() == 1 || escaped_byte(rest).is_some() || (rest.len() == TAIL && is_tail(rest))
        }
        _ => false,
    }
}

/// The byte for which the three at the head of `text` stand, if they are one of our escapes.
fn escaped_byte(text: &[u8]) -> Option<u8> {
    match text.get(..3)? {
        b"%2F" => Some(b'/'),
        b"%00" => Some(0),
        b"%2E" => Some(b'.'),
        b"%25" => Some(b'%'),
        _ => None,
    }
}

fn is_tail(text: &[u8]) -> bool {
    text.strip_prefix(MARK).is_some_and(|digits| digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// `whole` with a hash in the place of its end; not cut within a character.
fn cut(whole: &[u8]) -> Vec<u8> {
    let mut end = LEN_MAX - TAIL;
    while end > 0 && whole.get(end).is_some_and(|b| b & 0xc0 == 0x80) && end + 4 > LEN_MAX - TAIL {
        end -= 1;
    }
    let hash = xxhash_rust::xxh3::xxh3_64(whole);
    [whole.get(..end).unwrap_or_default(), MARK, format!("{hash:016x}").as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_and_no_two_meet() {
        let long = "ü".repeat(200).into_bytes();
        let names: [&[u8]; 22] = [
            b"plain",
            b"a/b",
            b"a%2Fb",
            b"a%252Fb",
            b"%",
            b"",
            b".",
            b"..",
            b"...",
            b"%2E",
            b"%2E%2E",
            b"50%",
            b"50% off",
            b"%2f",
            b"nul\0",
            b"x%~0123456789abcdef",
            b"%~0123456789abcdef",
            b"%25",
            b"%%2F",
            b"\xff\xfe",
            b"new\nline",
            b"%00",
        ];
        let mut seen = std::collections::HashSet::new();
        for name in names {
            let tree = shown(name);
            assert!(crate::node::is_name(&tree), "{:?}", tree.escape_ascii().to_string());
            assert_eq!(meant(&tree), Meant::Exactly(Cow::Borrowed(name)), "{}", name.escape_ascii());
            assert!(seen.insert(tree.into_owned()), "{}", name.escape_ascii());
        }
        let tree = shown(&long);
        assert!(tree.len() <= LEN_MAX && std::str::from_utf8(&tree).is_ok());
        assert_eq!(meant(&tree), Meant::ShownSo);
        assert_ne!(shown(&[&long[..], b"x"].concat()), tree);
        for nothing in [&b"a%2Eb"[..], b"%2E%2E%2E", b"%25x"] {
            assert_eq!(meant(nothing), Meant::Nothing, "{}", nothing.escape_ascii());
        }
    }
}
