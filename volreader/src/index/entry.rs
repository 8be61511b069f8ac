//! One line of a job's table: a file, folder or marker as it was stored.

use crate::attributes::{FileType, Stat};

/// The place of a record header in a session: block number and offset in the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPos {
    /// Block number in the session.
    pub block: u32,
    /// Offset of the record header in the block.
    pub offset: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A folder.
    Dir,
    /// A file with content: regular, or a raw device or fifo whose content was saved.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device node.
    CharDevice,
    /// A block device node.
    BlockDevice,
    /// A socket.
    Socket,
    /// The path was there in the previous job and is gone.
    Deleted,
}

impl EntryKind {
    /// From a record's file type and mode; `None` for what is no file at all.
    #[must_use]
    pub fn of(file_type: FileType, mode: u32, is_dir_path: bool) -> Option<Self> {
        let by_mode = match mode & 0o170_000 {
            0o040_000 => Self::Dir,
            0o120_000 => Self::Symlink,
            0o010_000 => Self::Fifo,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o140_000 => Self::Socket,
            _ => Self::File,
        };
        Some(match file_type {
            FileType::Deleted => Self::Deleted,
            FileType::Directory => Self::Dir,
            FileType::RawDevice | FileType::ReadFifo | FileType::Regular => Self::File,
            FileType::Symlink => Self::Symlink,
            FileType::HardLink | FileType::Special | FileType::Base => by_mode,
            FileType::Reparse if is_dir_path => Self::Dir,
            FileType::Reparse => by_mode,
            FileType::Object | FileType::Other(_) => return None,
        })
    }

    pub(super) const ALL: [Self; 8] = [
        Self::Dir,
        Self::File,
        Self::Symlink,
        Self::Fifo,
        Self::CharDevice,
        Self::BlockDevice,
        Self::Socket,
        Self::Deleted,
    ];
}

/// Facts about an entry, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// A further link of a file stored earlier in the job; `stat.link_index` names it.
    pub const HARD_LINK: Self = Self(1);
    /// A folder that is only known because something lies in it.
    pub const IMPLICIT: Self = Self(2);
    /// `stat.size` is the length of the content, not just what the client's `stat` said.
    pub const SIZE_EXACT: Self = Self(4);
    /// The data is in a base job.
    pub const BASE: Self = Self(8);
    /// The path of a marker of a deleted folder ended in `/`.
    pub const DIR_PATH: Self = Self(16);
    /// A folder that is only known because markers of deleted files lie in it: it is not shown.
    pub const GHOST: Self = Self(32);
    /// Only the attributes changed: the content is that of the version before in the chain (stream 37).
    pub const UPDATE: Self = Self(64);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the bits of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// With the bits of `other` when `condition` holds.
    #[must_use]
    pub const fn with_if(self, condition: bool, other: Self) -> Self {
        if condition { self.with(other) } else { self }
    }
}

/// An entry as read from a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Last component of the path.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Facts.
    pub flags: Flags,
    /// Number of the file in the job; 0 for implicit folders.
    pub file_index: u32,
    /// Place of its attributes record; `None` when only the catalog is known.
    pub pos: Option<RecordPos>,
    /// `stat`.
    pub stat: Stat,
    /// The folder's listing, for folders.
    pub dir: Option<DirId>,
}

/// A folder of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirId(pub u32);
