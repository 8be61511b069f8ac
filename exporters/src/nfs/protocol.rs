//! Numbers of NFS version 3 (RFC 1813), of its MOUNT protocol (appendix I) and of the port mapper (RFC 1833).

use blockdev::{Error, ErrorKind};

/// The programs.
pub(super) mod program {
    pub(in super::super) const PORTMAP: u32 = 100_000;
    pub(in super::super) const NFS: u32 = 100_003;
    pub(in super::super) const MOUNT: u32 = 100_005;
}

/// Their versions.
pub(super) mod version {
    pub(in super::super) const PORTMAP: u32 = 2;
    pub(in super::super) const NFS: u32 = 3;
    pub(in super::super) const MOUNT: u32 = 3;
}

/// Procedures of NFS.
pub(super) mod nfs {
    pub(in super::super) const NULL: u32 = 0;
    pub(in super::super) const GETATTR: u32 = 1;
    pub(in super::super) const SETATTR: u32 = 2;
    pub(in super::super) const LOOKUP: u32 = 3;
    pub(in super::super) const ACCESS: u32 = 4;
    pub(in super::super) const READLINK: u32 = 5;
    pub(in super::super) const READ: u32 = 6;
    pub(in super::super) const WRITE: u32 = 7;
    pub(in super::super) const CREATE: u32 = 8;
    pub(in super::super) const MKDIR: u32 = 9;
    pub(in super::super) const SYMLINK: u32 = 10;
    pub(in super::super) const MKNOD: u32 = 11;
    pub(in super::super) const REMOVE: u32 = 12;
    pub(in super::super) const RMDIR: u32 = 13;
    pub(in super::super) const RENAME: u32 = 14;
    pub(in super::super) const LINK: u32 = 15;
    pub(in super::super) const READDIR: u32 = 16;
    pub(in super::super) const READDIRPLUS: u32 = 17;
    pub(in super::super) const FSSTAT: u32 = 18;
    pub(in super::super) const FSINFO: u32 = 19;
    pub(in super::super) const PATHCONF: u32 = 20;
    pub(in super::super) const COMMIT: u32 = 21;

    /// Whether doing it a second time gives another answer than doing it once.
    pub(in super::super) const fn only_once(procedure: u32) -> bool {
        matches!(procedure, SETATTR | CREATE | MKDIR | SYMLINK | REMOVE | RMDIR | RENAME | LINK)
    }
}

/// Longest file handle.
pub(super) const HANDLE_MAX: usize = 64;
/// Longest name that a client may ask for; longer ones cannot be there.
pub(super) const NAME_MAX: usize = 255;
/// Longest path of a mount.
pub(super) const PATH_MAX: usize = 1024;

/// `nfsstat3`, and `mountstat3` as far as it has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Status {
    Ok = 0,
    /// Not the owner.
    Permission = 1,
    NotFound = 2,
    Io = 5,
    Access = 13,
    Exists = 17,
    OtherDevice = 18,
    NotDirectory = 20,
    IsDirectory = 21,
    Invalid = 22,
    FileTooBig = 27,
    NoSpace = 28,
    ReadOnly = 30,
    NameTooLong = 63,
    NotEmpty = 66,
    Stale = 70,
    BadHandle = 10001,
    /// The guard of SETATTR does not hold.
    NotSync = 10002,
    NotSupported = 10004,
    TooSmall = 10005,
}

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Locked => Self::Access,
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::NoSpace => Self::NoSpace,
            ErrorKind::Exists => Self::Exists,
            ErrorKind::NotEmpty => Self::NotEmpty,
            _ => Self::Io,
        }
    }
}

/// Bits of ACCESS.
pub(super) mod access {
    pub(in super::super) const READ: u32 = 0x01;
    pub(in super::super) const LOOKUP: u32 = 0x02;
    pub(in super::super) const MODIFY: u32 = 0x04;
    pub(in super::super) const EXTEND: u32 = 0x08;
    pub(in super::super) const DELETE: u32 = 0x10;
    pub(in super::super) const EXECUTE: u32 = 0x20;
}

/// How durable a write is to be, or is (`stable_how`).
pub(super) mod stable {
    /// Not before a COMMIT.
    pub(in super::super) const UNSTABLE: u32 = 0;
    /// All of it, attributes included.
    pub(in super::super) const FILE_SYNC: u32 = 2;
}

/// How a file is created (`createmode3`).
pub(super) mod create {
    pub(in super::super) const UNCHECKED: u32 = 0;
    pub(in super::super) const GUARDED: u32 = 1;
    pub(in super::super) const EXCLUSIVE: u32 = 2;
}

/// Properties that FSINFO tells: hard links, symbolic links, and PATHCONF says the same everywhere.
pub(super) const PROPERTIES: u32 = 0x01 | 0x02 | 0x08;
/// The same where something can be written: times can be set.
pub(super) const CAN_SET_TIME: u32 = 0x10;
