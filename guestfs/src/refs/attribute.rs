//! What the tree of a file has: its attributes. The tree is the value of the file's row in its directory.
//!
//! A key has a length, and the type of the attribute; from version 3.5 on there is a mark before the type, which says
//! whether there can be several of that type, and behind it the number of a version of a stream.

use std::ops::ControlFlow;

use blockdev::{
    Error, ErrorKind, Result,
    fields::{le16, le32, le64},
};

use super::{
    node::Span,
    page::{Addressing, Pages},
    tree::{Root, Tree},
};
use crate::names::from_utf16le;

/// Attributes of one file that are looked at.
const COUNT_MAX: usize = 4096;

/// Types of attributes.
pub mod kind {
    /// Where the content of a named stream is that has no room in the attribute.
    pub const EXTENTS: u16 = 0x00;
    /// A reparse point, up to version 3.4.
    pub const OLD_REPARSE: u16 = 0x70;
    /// The content.
    pub const DATA: u16 = 0x80;
    /// A named stream, or a snapshot of one.
    pub const NAMED: u16 = 0xb0;
    /// A reparse point.
    pub const REPARSE: u16 = 0xc0;
}

/// An attribute.
#[derive(Debug, Clone)]
pub struct Attribute {
    /// Its type.
    pub kind: u16,
    /// Whether there can be several: the live version of a stream has the number 0x1000.
    pub version: Option<u64>,
    /// Its name, empty for most.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Span,
}

/// The attributes in the tree that is the value `value`.
///
/// # Errors
///
/// When the tree cannot be read.
pub fn attributes(pages: &Pages, value: &Span) -> Result<Vec<Attribute>> {
    let tree = Tree { pages, root: Root::Value(value.clone()), addressing: Addressing::Virtual };
    let mut found = Vec::new();
    tree.visit(0, &mut |_, row| {
        if found.len() >= COUNT_MAX {
            return Err(Error::new(ErrorKind::Limit, format!("a file of ReFS has more than {COUNT_MAX} attributes")));
        }
        found.extend(parse(row.key.get(), &row.value));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

fn parse(key: &[u8], value: &Span) -> Option<Attribute> {
    /// The marks: one of a type, or several.
    const ONE: u32 = 0x8000_0001;
    const SEVERAL: u32 = 0x8000_0002;
    if key.len() < 12 {
        return None;
    }
    let mark = le32(key, 8);
    let (kind, name) = match mark {
        ONE | SEVERAL => (le16(key, 12), 16),
        _ => (u16::try_from(mark).ok()?, 12),
    };
    let version = (mark == SEVERAL).then(|| le64(key, 16));
    let has_name = kind == kind::NAMED;
    let mut name = if has_name { from_utf16le(key.get(name..).unwrap_or_default()) } else { Vec::new() };
    while name.last() == Some(&0) {
        name.pop();
    }
    Some(Attribute { kind, version, name, value: value.clone() })
}
