//! Directory items: what names stand for. Extended attributes have the same form.
//!
//! A name is stored twice: under its hash, to be found, and under a number that counts up, to be listed in order. Names
//! with the same hash share an item.

use blockdev::{
    Error, Result,
    fields::{le16, slice},
};

use super::key::Key;

/// Bytes of an entry before its name.
const HEADER: usize = 30;
/// The longest name (`BTRFS_NAME_LEN`).
const NAME_MAX: usize = 255;

/// An entry of a directory, or an extended attribute.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The key of what it stands for: an inode, or the root item of a subvolume.
    pub location: Key,
    pub name: &'a [u8],
    /// The value of an attribute.
    pub value: &'a [u8],
    /// The type, as [`kind_of_entry`](super::inode::kind_of_entry) takes it.
    pub kind: u8,
    /// All of it as it is stored.
    pub bytes: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The one at `at` of an item.
    pub fn read(item: &'a [u8], at: usize) -> Result<Self> {
        let rest = item.get(at..).unwrap_or_default();
        let (value_len, name_len) = (usize::from(le16(rest, 25)), usize::from(le16(rest, 27)));
        let name = slice(rest, HEADER, name_len);
        let value = slice(rest, HEADER + name_len, value_len);
        if name.len() < name_len || value.len() < value_len || name.is_empty() || name_len > NAME_MAX {
            return Err(Error::damaged(format!("has an entry with a name of {name_len} and {value_len} bytes")));
        }
        let kind = slice(rest, 29, 1).first().copied().unwrap_or(0);
        Ok(Self {
            location: Key::read(rest, 0),
            name,
            value,
            kind,
            bytes: slice(rest, 0, HEADER + name_len + value_len),
        })
    }
}

/// All entries of an item.
pub fn entries(item: &[u8]) -> impl Iterator<Item = Result<Entry<'_>>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= item.len() {
            return None;
        }
        let entry = Entry::read(item, at);
        at = entry.as_ref().map_or(item.len(), |entry| at + entry.bytes.len());
        Some(entry)
    })
}

/// The entry called `name` of an item.
pub fn find<'a>(item: &'a [u8], name: &[u8]) -> Result<Option<Entry<'a>>> {
    for entry in entries(item) {
        let entry = entry?;
        if entry.name == name {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}
