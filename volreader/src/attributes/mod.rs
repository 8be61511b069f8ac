//! The attributes record (streams 1, 5 and 37): a file's name, type, `stat` and link target.
//!
//! `<FileIndex> SP <type> SP <name> NUL <stat> NUL <link> NUL <ex> NUL <delta_seq> NUL`. Names and targets are
//! bytes as the client had them.

mod stat;

pub use stat::Stat;

use crate::bytes::Fields;

/// The file type of an attributes record, as far as a reader has to tell types apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// Hard link to a file saved earlier in the job.
    HardLink,
    /// Regular file; it may be empty.
    Regular,
    /// Symbolic link.
    Symlink,
    /// Directory.
    Directory,
    /// Character or block device node, fifo.
    Special,
    /// A block device whose content was saved.
    RawDevice,
    /// A fifo whose content was saved.
    ReadFifo,
    /// NTFS reparse point or junction.
    Reparse,
    /// A file that was there in the previous job of the chain and is gone (accurate mode).
    Deleted,
    /// Unchanged since the base job; its data is there.
    Base,
    /// Restore object, plugin configuration and the like: data in a record of its own, no file.
    Object,
    /// Skip reasons and numbers that no release uses.
    Other(u16),
}

impl FileType {
    /// From the number in the record; only its low 16 bits count.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number & 0xffff {
            1 => Self::HardLink,
            2 | 3 => Self::Regular,
            4 => Self::Symlink,
            5 => Self::Directory,
            6 => Self::Special,
            16 => Self::RawDevice,
            17 => Self::ReadFifo,
            21 | 26 => Self::Reparse,
            23 => Self::Deleted,
            24 => Self::Base,
            25 | 27..=30 => Self::Object,
            other => Self::Other(other as u16),
        }
    }
}

/// An attributes record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Number of the file in the job.
    pub file_index: u32,
    /// File type.
    pub file_type: FileType,
    /// Path as stored; directories end in `/`.
    pub path: &'a [u8],
    /// `stat`.
    pub stat: Stat,
    /// Target of a symbolic link, or name of the first link of a hard link.
    pub link: &'a [u8],
    /// Position in a chain of deltas of one file (plugins); 0 otherwise.
    pub delta_seq: i32,
}

impl<'a> Record<'a> {
    /// Parse the payload of an attributes record; `None` when it is malformed.
    #[must_use]
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let (file_index, rest) = decimal(payload)?;
        let (file_type, rest) = decimal(rest)?;
        let mut f = Fields::new(rest);
        let path = f.until_nul().filter(|p| !p.is_empty())?;
        let stat = Stat::parse(f.until_nul()?)?;
        // Old File daemons end early: what is missing is empty.
        let link = f.until_nul().unwrap_or_default();
        let _extended = f.until_nul();
        let delta_seq = f.until_nul().and_then(|t| std::str::from_utf8(t).ok()?.parse().ok()).unwrap_or(0);
        Some(Self { file_index, file_type: FileType::from_number(file_type), path, stat, link, delta_seq })
    }
}

/// A decimal number and the single blank behind it.
fn decimal(text: &[u8]) -> Option<(u32, &[u8])> {
    let end = text.iter().take(12).position(|&b| b == b' ')?;
    let number = std::str::from_utf8(&text[..end]).ok()?.parse().ok()?;
    Some((number, &text[end + 1..]))
}
