//! Reparse points: files that stand for something else ([MS-FSCC] 2.1.2).
//!
//! Symbolic links and junctions are given as symbolic links. A relative target has its separators as Unix has them. An
//! absolute one is given as Windows' programs write it, with those separators too: `C:/Users`, `//server/share/x`, and
//! `//?/Volume{GUID}/x` for a volume without a letter. Which volume has a letter, only the guest's registry says.

use blockdev::{
    Error, Result,
    fields::{le16, le32, slice},
};

use crate::{Kind, names::from_utf16le};

/// The longest reparse point there is.
pub const REPARSE_MAX: usize = 16 << 10;

/// Bytes before the data of a tag.
const HEAD: usize = 8;

/// Tags.
mod tag {
    pub const MOUNT_POINT: u32 = 0xa000_0003;
    pub const SYMLINK: u32 = 0xa000_000c;
    pub const LX_SYMLINK: u32 = 0xa000_001d;
    pub const AF_UNIX: u32 = 0x8000_0023;
    pub const LX_FIFO: u32 = 0x8000_0024;
    pub const LX_CHR: u32 = 0x8000_0025;
    pub const LX_BLK: u32 = 0x8000_0026;
    pub const WOF: u32 = 0x8000_0017;
    /// Those whose files have their content elsewhere, and where.
    pub const ELSEWHERE: [(u32, &str); 10] = [
        (0x8000_0013, "in the deduplication store of the volume"),
        (0xc000_0004, "in hierarchical storage (HSM)"),
        (0x8000_0006, "in hierarchical storage (HSM)"),
        (0x8000_0007, "in the single instance store of the volume"),
        (0x8000_0008, "in a WIM archive"),
        (0x8000_0018, "in another layer of a Windows container"),
        (0x9000_1018, "in another layer of a Windows container"),
        (0x8000_001e, "in the cloud (Azure File Sync)"),
        (0x9000_001c, "with the provider of a projected filesystem (ProjFS)"),
        (0xa000_0028, "in a composite image (CimFS)"),
    ];
    /// The sixteen tags of the cloud files API (OneDrive) differ in these bits.
    pub const CLOUD: u32 = 0x9000_001a;
    pub const CLOUD_MASK: u32 = 0xffff_0fff;
}

/// A reparse point.
pub struct Reparse {
    bytes: Vec<u8>,
}

/// Where the content of a file with a reparse point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// In the file.
    Here,
    /// Packed, in another stream of the file: by the method of this number.
    Packed(u32),
    /// In the file if it was fetched, otherwise in the cloud.
    Cloud,
    /// Not in the file, but where this says.
    Elsewhere(&'static str),
}

impl Reparse {
    /// That in the value `bytes` of the attribute.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// The value of the attribute.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Its tag.
    pub fn tag(&self) -> u32 {
        le32(&self.bytes, 0)
    }

    fn data(&self) -> &[u8] {
        slice(&self.bytes, HEAD, le16(&self.bytes, 4).into())
    }

    /// The type of file that it makes, if it makes one.
    pub fn kind(&self) -> Option<Kind> {
        Some(match self.tag() {
            tag::MOUNT_POINT | tag::SYMLINK | tag::LX_SYMLINK => Kind::Symlink,
            tag::AF_UNIX => Kind::Socket,
            tag::LX_FIFO => Kind::Fifo,
            tag::LX_CHR => Kind::CharDevice,
            tag::LX_BLK => Kind::BlockDevice,
            _ => return None,
        })
    }

    /// Where the content is.
    pub fn content(&self) -> Content {
        let tag = self.tag();
        if tag & tag::CLOUD_MASK == tag::CLOUD {
            return Content::Cloud;
        }
        if let Some((_, place)) = tag::ELSEWHERE.iter().find(|(known, _)| *known == tag) {
            return Content::Elsewhere(place);
        }
        if tag != tag::WOF {
            return Content::Here;
        }
        // WOF_EXTERNAL_INFO says which provider, FILE_PROVIDER_EXTERNAL_INFO the method.
        match (le32(self.data(), 4), self.data().len()) {
            (2, 16..) => Content::Packed(le32(self.data(), 12)),
            _ => Content::Elsewhere("in a WIM archive"),
        }
    }

    /// What the symbolic link points to.
    pub fn target(&self) -> Result<Vec<u8>> {
        let data = self.data();
        let (is_relative, paths) = match self.tag() {
            tag::MOUNT_POINT => (false, data.get(8..)),
            tag::SYMLINK => (le32(data, 8) & 1 != 0, data.get(12..)),
            tag::LX_SYMLINK if le32(data, 0) == 2 => return Ok(data.get(4..).unwrap_or_default().to_vec()),
            other => return Err(Error::unsupported(format!("no target is known in a link with the tag {other:#x}"))),
        };
        let (at, len) = (usize::from(le16(data, 0)), usize::from(le16(data, 2)));
        let path = slice(paths.unwrap_or_default(), at, len);
        if path.is_empty() || path.len() != len {
            return Err(Error::damaged("the target of the link lies behind its end"));
        }
        let path = from_utf16le(path).iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect();
        Ok(if is_relative { path } else { absolute(path) })
    }
}

/// A path in NT's namespace as programs write it.
fn absolute(path: Vec<u8>) -> Vec<u8> {
    let Some(rest) = path.strip_prefix(b"/??/") else { return path };
    if rest.starts_with(b"Volume{") {
        return [b"//?/", rest].concat();
    }
    match rest.strip_prefix(b"UNC/") {
        Some(share) => [b"//", share].concat(),
        // Linux' own driver writes Unix' targets so too, relative ones among them.
        None => rest.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    /// A reparse point with the print name before the target, as Windows has it for symbolic links.
    fn point(tag: u32, flags: Option<u32>, target: &str) -> Reparse {
        let (print, target) = (utf16("shown"), utf16(target));
        let mut data = Vec::new();
        for n in [print.len(), target.len(), 0, print.len()] {
            data.extend((n as u16).to_le_bytes());
        }
        data.extend(flags.map(u32::to_le_bytes).into_iter().flatten());
        data.extend([print, target].concat());
        let mut bytes = tag.to_le_bytes().to_vec();
        bytes.extend([(data.len() as u16).to_le_bytes(), [0; 2]].concat());
        bytes.extend(data);
        Reparse::new(bytes)
    }

    #[test]
    fn targets() {
        for (tag, flags, target, expected) in [
            (tag::SYMLINK, Some(1), r"..\a b\ü", "../a b/ü"),
            (tag::SYMLINK, Some(1), r"\rooted", "/rooted"),
            (tag::SYMLINK, Some(0), r"\??\C:\Data\x", "C:/Data/x"),
            (tag::SYMLINK, Some(0), r"\??\UNC\server\share\x", "//server/share/x"),
            (tag::SYMLINK, Some(0), r"\??\..\small", "../small"),
            (tag::MOUNT_POINT, None, r"\??\D:\", "D:/"),
            (
                tag::MOUNT_POINT,
                None,
                r"\??\Volume{01234567-89ab-cdef-0123-456789abcdef}\",
                "//?/Volume{01234567-89ab-cdef-0123-456789abcdef}/",
            ),
        ] {
            let point = point(tag, flags, target);
            assert_eq!(point.kind(), Some(Kind::Symlink));
            assert_eq!(String::from_utf8(point.target().unwrap()).unwrap(), expected);
            for cut in 0..point.bytes.len() {
                let _ = Reparse::new(point.bytes[..cut].to_vec()).target();
            }
        }
    }
}
