//! Special files as Interix (Services for Unix) writes them, and NTFS-3G by default: regular files with the attribute
//! "system", whose content says what they are. Empty ones are fifos, those of one byte sockets.

use blockdev::fields::{le64, slice};

use crate::{Kind, names::from_utf16le};

const LINK: &[u8; 8] = b"IntxLNK\x01";
const CHAR_DEVICE: &[u8; 8] = b"IntxCHR\0";
const BLOCK_DEVICE: &[u8; 8] = b"IntxBLK\0";

/// Bytes that the content of a special file can have: a path of the longest length after eight bytes.
pub const CONTENT_MAX: u64 = 8 + 2 * 4096;

/// What a special file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Special {
    /// Type.
    pub kind: Kind,
    /// Target of a link.
    pub target: Vec<u8>,
    /// Numbers of a device.
    pub device: (u32, u32),
}

/// The special file of which `content` is all, if it is one.
pub fn parse(content: &[u8]) -> Option<Special> {
    let of = |kind| Some(Special { kind, target: Vec::new(), device: (0, 0) });
    let number = |at| u32::try_from(le64(content, at)).unwrap_or(u32::MAX);
    match (content.first_chunk::<8>(), content.len()) {
        (_, 0) => of(Kind::Fifo),
        (_, 1) => of(Kind::Socket),
        (Some(LINK), 10..) => {
            Some(Special { target: from_utf16le(slice(content, 8, content.len())), ..of(Kind::Symlink)? })
        }
        (Some(CHAR_DEVICE), 24) => Some(Special { device: (number(8), number(16)), ..of(Kind::CharDevice)? }),
        (Some(BLOCK_DEVICE), 24) => Some(Special { device: (number(8), number(16)), ..of(Kind::BlockDevice)? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_files() {
        let kind = |content: &[u8]| parse(content).map(|special| special.kind);
        assert_eq!(parse(b"IntxLNK\x01.\0.\0/\0\xe4\0").unwrap().target, "../ä".as_bytes());
        let device = parse(b"IntxCHR\0\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0").unwrap();
        assert_eq!((device.kind, device.device), (Kind::CharDevice, (5, 1)));
        assert_eq!((kind(b""), kind(b"\0")), (Some(Kind::Fifo), Some(Kind::Socket)));
        assert_eq!((kind(b"IntxLNK\x01"), kind(b"IntxBLK\0"), kind(b"MZ")), (None, None, None));
    }
}
