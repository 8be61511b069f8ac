//! Files in a directory: rows of its tree whose keys have a type, a kind and a name.

use blockdev::{
    Error, Result,
    fields::{le16, le32, le64},
};

use super::{
    node::{Row, Span},
    page::Pages,
};
use crate::{FileId, Kind, Time, names::from_utf16le, windows::filetime};

/// Types of rows in a directory.
pub mod row {
    /// The directory itself.
    pub const OWN: u16 = 0x10;
    /// A file with its name.
    pub const FILE: u16 = 0x30;
    /// What is kept of a file apart from its name.
    pub const APART: u16 = 0x40;
}

/// Attributes of files.
pub mod attribute {
    /// Not to be written.
    pub const READ_ONLY: u32 = 0x1;
    /// A directory, as all of Windows has it.
    const DIRECTORY: u32 = 0x10;
    /// A directory, as ReFS has it.
    const IS_OBJECT: u32 = 0x1000_0000;
    /// There is a reparse point.
    pub const REPARSE: u32 = 0x400;
    /// Encrypted by the guest.
    pub const ENCRYPTED: u32 = 0x4000;

    /// Whether one of the marks of a directory is there.
    pub const fn is_directory(attributes: u32) -> bool {
        attributes & (DIRECTORY | IS_OBJECT) != 0
    }
}

/// The file attributes and times of a file, which are in order in several structures.
#[derive(Debug, Clone, Copy)]
pub struct Basics {
    /// Made, written, changed, read.
    pub times: [Time; 4],
    /// Attributes.
    pub attributes: u32,
}

/// Where a file is kept.
#[derive(Debug, Clone)]
pub enum Body {
    /// In its own object: a directory of this number.
    Object(u64),
    /// In its row: a tree of attributes.
    Here(Span),
    /// In a row of a directory (its home) with a number of its own; the size tells which, where there are several.
    Apart {
        /// The object of its home.
        home: u64,
        /// Its number there.
        number: u64,
        /// Its length in bytes.
        size: u64,
    },
}

/// An entry of a directory.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Times and attributes.
    pub basics: Basics,
    /// Where the file is.
    pub body: Body,
}

impl Entry {
    /// That in `row`; `None` when the row is something else.
    ///
    /// # Errors
    ///
    /// When it is too short.
    pub fn parse(row: &Row) -> Result<Option<Self>> {
        /// Kinds of rows with names.
        const WITH_BODY: u16 = 1;
        let key = row.key.get();
        if le16(key, 0) != row::FILE || key.len() < 6 {
            return Ok(None);
        }
        let mut name = from_utf16le(key.get(4..).unwrap_or_default());
        while name.last() == Some(&0) {
            name.pop();
        }
        let value = row.value.get();
        if le16(key, 2) == WITH_BODY {
            let basics = Basics::at(value, 0x28)?;
            return Ok(Some(Self { name, basics, body: Body::Here(row.value.clone()) }));
        }
        let basics = Basics { attributes: le32(value, 0x40), ..Basics::at(value, 0x10)? };
        let (low, high) = (le64(value, 0), le64(value, 8));
        let body = if attribute::is_directory(basics.attributes) {
            // Version 1 has the object in the lower half, later ones the object's place in its home.
            Body::Object(if high == 0 { low } else { high })
        } else {
            Body::Apart { home: high, number: low, size: le64(value, 0x38) }
        };
        Ok(Some(Self { name, basics, body }))
    }

    /// Which file it is, in the directory `dir`, at the place `place` of its tree.
    pub const fn id(&self, dir: u64, place: u64) -> FileId {
        match self.body {
            Body::Object(number) => FileId::of(number),
            _ => FileId { tree: dir, number: place },
        }
    }

    /// The type, but for reparse points.
    pub const fn kind(&self) -> Kind {
        if matches!(self.body, Body::Object(_)) { Kind::Dir } else { Kind::File }
    }
}

impl Basics {
    /// Four times at `at`, attributes behind them.
    ///
    /// # Errors
    ///
    /// When there are no such bytes.
    pub fn at(value: &[u8], at: usize) -> Result<Self> {
        if value.len() < at + 0x24 {
            return Err(Error::damaged("an entry of a directory of ReFS is too short"));
        }
        Ok(Self {
            times: [0, 8, 16, 24].map(|by| filetime::time(le64(value, at + by))),
            attributes: le32(value, at + 32),
        })
    }
}

/// What is kept of a file apart from its name, in the directory tree that `row` is of: its number and its length.
pub fn apart(row: &Row, pages: &Pages) -> Option<(u64, u64)> {
    let (key, value) = (row.key.get(), row.value.get());
    let size = if pages.boot().is_first() { 0x68 } else { 0x58 };
    (le16(key, 0) == row::APART && key.len() >= 16).then(|| (le64(key, 8), le64(value, size)))
}
