//! File names: the attribute of a file, and the key of a directory's index.

use blockdev::fields::{le32, le64, slice};

use super::record::Reference;
use crate::names;

/// A sound file name.
#[derive(Clone, Copy)]
pub struct FileName<'a> {
    bytes: &'a [u8],
}

/// The namespace of names that are there for DOS alone, beside another one of the file.
const DOS: u8 = 2;

/// File attributes, as the standard information and the names have them.
pub mod flag {
    /// Not to be written to.
    pub const READ_ONLY: u32 = 0x1;
    /// Hidden.
    pub const HIDDEN: u32 = 0x2;
    /// Of the system; Interix marks its special files with it.
    pub const SYSTEM: u32 = 0x4;
    /// Directory, where it is asked for by users.
    pub const DIRECTORY: u32 = 0x10;
    /// None of the others.
    pub const NORMAL: u32 = 0x80;
    /// With holes.
    pub const SPARSE: u32 = 0x200;
    /// With a reparse point.
    pub const REPARSE_POINT: u32 = 0x400;
    /// Its content is elsewhere.
    pub const OFFLINE: u32 = 0x1000;
    /// Opening fetches the content.
    pub const RECALL_ON_OPEN: u32 = 0x4_0000;
    /// Reading fetches the content.
    pub const RECALL_ON_DATA_ACCESS: u32 = 0x40_0000;
    /// Directory, in a name.
    pub const NAME_OF_DIRECTORY: u32 = 0x1000_0000;
}

impl<'a> FileName<'a> {
    /// The name in `bytes`, if they are one.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let units = usize::from(*bytes.get(64)?);
        (units > 0 && slice(bytes, 66, 2 * units).len() == 2 * units).then_some(Self { bytes })
    }

    /// The directory it is in.
    pub fn parent(&self) -> Reference {
        Reference(le64(self.bytes, 0))
    }

    /// The file's attributes when the name was last brought up to date.
    pub fn flags(&self) -> u32 {
        le32(self.bytes, 56)
    }

    /// Whether it is there for DOS alone.
    pub fn is_for_dos(&self) -> bool {
        self.bytes.get(65) == Some(&DOS)
    }

    /// In UTF-16LE.
    pub fn units(&self) -> &'a [u8] {
        slice(self.bytes, 66, 2 * usize::from(self.bytes.get(64).copied().unwrap_or(0)))
    }

    /// As bytes.
    pub fn name(&self) -> Vec<u8> {
        names::from_utf16le(self.units())
    }
}
