//! A tree for protocols whose names are Unicode: names that are not UTF-8 are shown escaped, and found by that.
//!
//! A byte that belongs to no character is shown as `%` and two hexadecimal digits, and so is a `%` that would otherwise
//! be taken for one of these (`%25`). Every other name stays as it is.

use std::{borrow::Cow, ops::ControlFlow, sync::Arc};

use blockdev::Result;

use crate::node::{Attributes, Dir, Entry, Inode, Node, Xattr};

/// The tree below `node` with Unicode names only.
#[must_use]
pub fn unicode(node: Node) -> Node {
    match node {
        Node::Dir(dir) => Node::Dir(Arc::new(Escaped(dir))),
        other => other,
    }
}

struct Escaped(Arc<dyn Dir>);

impl Inode for Escaped {
    fn attributes(&self) -> Result<Attributes> {
        self.0.attributes()
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        self.0.xattrs()
    }

    fn alternate_streams(&self) -> Result<Vec<(Vec<u8>, Node)>> {
        self.0.alternate_streams()
    }
}

impl Dir for Escaped {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let Some(stored) = meant(name) else { return Ok(None) };
        Ok(self.0.lookup(&stored)?.map(unicode))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        self.0.list(cookie, &mut |entry| match shown(&entry.name) {
            Cow::Borrowed(_) => sink(entry),
            Cow::Owned(name) => sink(Entry { name, ..entry }),
        })
    }
}

/// The name that is shown for a stored one.
fn shown(stored: &[u8]) -> Cow<'_, [u8]> {
    let escapes = |text: &str| (0..text.len()).any(|at| escaped(&text.as_bytes()[at..]).is_some());
    if std::str::from_utf8(stored).is_ok_and(|text| !escapes(text)) {
        return Cow::Borrowed(stored);
    }
    let mut name = Vec::with_capacity(stored.len() + 16);
    let mut rest = stored;
    for chunk in stored.utf8_chunks() {
        for &byte in chunk.valid().as_bytes() {
            name.extend_from_slice(if escaped(rest).is_some() { b"%25" } else { std::slice::from_ref(&byte) });
            rest = rest.get(1..).unwrap_or_default();
        }
        for byte in chunk.invalid() {
            name.extend(format!("%{byte:02X}").into_bytes());
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    Cow::Owned(name)
}

/// The stored name that is shown as `name`, if one can be.
fn meant(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut stored = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        let found = escaped(rest);
        stored.push(found.unwrap_or(byte));
        rest = if found.is_some() { rest.get(3..).unwrap_or_default() } else { tail };
    }
    // Only what is shown so is meant: otherwise one file would have two names.
    (*shown(&stored) == *name).then_some(Cow::Owned(stored))
}

/// The byte that an escape at the head of `text` stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let byte = digit(*high)? << 4 | digit(*low)?;
    (byte == b'%' || byte >= 0x80).then_some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_and_no_two_meet() {
        let names: [(&[u8], &[u8]); 9] = [
            ("grüße".as_bytes(), "grüße".as_bytes()),
            (b"latin1-\xe4\xf6", b"latin1-%E4%F6"),
            (b"latin1-%E4%F6", b"latin1-%25E4%25F6"),
            (b"\xe4%E4", b"%E4%25E4"),
            (b"%", b"%"),
            (b"50%2F", b"50%2F"),
            (b"%25", b"%2525"),
            (b"cut \xf0\x9f\x92", b"cut %F0%9F%92"),
            (b"%e4", b"%e4"),
        ];
        for (stored, name) in names {
            assert_eq!(shown(stored), name, "{}", stored.escape_ascii());
            assert_eq!(meant(name).as_deref(), Some(stored), "{}", stored.escape_ascii());
        }
        for nothing in [&b"%C3%BC"[..], b"%25", b"\xff"] {
            assert_eq!(meant(nothing), None, "{}", nothing.escape_ascii());
        }
    }
}
