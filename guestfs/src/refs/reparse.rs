//! Reparse points: files that stand for something else ([MS-FSCC] 2.1.2).

use blockdev::{
    Error, Result,
    fields::{le16, le32, slice},
};

use super::attribute::{Attribute, kind};
use crate::{Kind, names::from_utf16le};

/// Tags.
mod tag {
    pub const MOUNT_POINT: u32 = 0xa000_0003;
    pub const SYMLINK: u32 = 0xa000_000c;
    pub const LX_SYMLINK: u32 = 0xa000_001d;
    pub const AF_UNIX: u32 = 0x8000_0023;
    pub const LX_FIFO: u32 = 0x8000_0024;
    pub const LX_CHR: u32 = 0x8000_0025;
    pub const LX_BLK: u32 = 0x8000_0026;
}

/// A reparse point.
pub struct Reparse {
    tag: u32,
    data: Vec<u8>,
}

impl Reparse {
    /// That among `attributes`, if there is one.
    pub fn of(attributes: &[Attribute]) -> Option<Self> {
        let found = attributes.iter().find(|a| matches!(a.kind, kind::REPARSE | kind::OLD_REPARSE))?;
        let value = found.value.get();
        // Like all that is resident: where it is, in one of the two ways.
        let at = match (le32(value, 8), le32(value, 4)) {
            (0x0c, _) => 0x0c,
            (_, at) => at as usize,
        };
        let data = slice(value, at.checked_add(8)?, le16(value, at.checked_add(4)?).into());
        Some(Self { tag: le32(value, at), data: data.to_vec() })
    }

    /// The type of file that it makes.
    ///
    /// # Errors
    ///
    /// `Unsupported` when the content is not in the file.
    pub fn kind(&self) -> Result<Kind> {
        Ok(match self.tag {
            tag::MOUNT_POINT | tag::SYMLINK | tag::LX_SYMLINK => Kind::Symlink,
            tag::AF_UNIX => Kind::Socket,
            tag::LX_FIFO => Kind::Fifo,
            tag::LX_CHR => Kind::CharDevice,
            tag::LX_BLK => Kind::BlockDevice,
            other => {
                let of = format!("the content is not in the file: it has a reparse point with the tag {other:#x}");
                return Err(Error::unsupported(of));
            }
        })
    }

    /// What the symbolic link points to, with separators as Unix has them.
    ///
    /// # Errors
    ///
    /// When it is no symbolic link or contradicts itself.
    pub fn target(&self) -> Result<Vec<u8>> {
        let paths = match self.tag {
            tag::MOUNT_POINT => 8,
            tag::SYMLINK => 12,
            tag::LX_SYMLINK => return Ok(self.data.get(4..).unwrap_or_default().to_vec()),
            other => return Err(Error::invalid(format!("a reparse point with the tag {other:#x} is no link"))),
        };
        let (at, len) = (usize::from(le16(&self.data, 0)), usize::from(le16(&self.data, 2)));
        let path = slice(self.data.get(paths..).unwrap_or_default(), at, len);
        if path.is_empty() || path.len() != len {
            return Err(Error::damaged("the target of the link lies behind its end"));
        }
        let path: Vec<u8> = from_utf16le(path).iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect();
        Ok(path.strip_prefix(b"/??/").map_or_else(|| path.clone(), <[u8]>::to_vec))
    }
}
