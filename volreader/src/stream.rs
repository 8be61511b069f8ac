//! Which stream a record belongs to and what its payload is (format reference, sections 3 and 7).
//!
//! The `Stream` field of a record header packs a stream number and flag bits into one signed word; negative
//! means "continuation of the record above". [`StreamId`] takes it apart, [`StreamKind`] says what to do with
//! the payload, and its `Display` is what listings show. A number that nobody defined is
//! [`StreamKind::Unknown`]: shown and skipped, never an error.

use std::fmt;

use crate::digest::Algorithm;

const NUMBER_MASK: u32 = 0x7ff;
const BIT_DEDUP_REFERENCES: u32 = 1 << 24;
const BIT_PORTABLE: u32 = 1 << 25;
const BIT_OFFSETS: u32 = 1 << 26;
const BIT_DELTA: u32 = 1 << 27;
const BIT_PLUGIN: u32 = 1 << 28;

/// The `Stream` field of a record header without its sign: number and flag bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(u32);

impl StreamId {
    /// From the field as it is in the record header. The sign (set on continuation records) is dropped.
    #[must_use]
    pub const fn from_header(field: i32) -> Self {
        Self(field.unsigned_abs())
    }

    /// The stream number, below 2048.
    #[must_use]
    pub const fn number(self) -> u16 {
        (self.0 & NUMBER_MASK) as u16
    }

    /// The payload is references into a deduplication engine (bit 24) that only Bacula's own Storage daemon
    /// could resolve.
    #[must_use]
    pub const fn is_dedup(self) -> bool {
        self.0 & BIT_DEDUP_REFERENCES != 0
    }

    /// Windows data written in the portable form (bit 25): plain bytes, not BackupRead's.
    #[must_use]
    pub const fn is_portable(self) -> bool {
        self.0 & BIT_PORTABLE != 0
    }

    /// Each record starts with its 8-byte offset (bit 26), for information only: content is still sequential.
    #[must_use]
    pub const fn has_offsets(self) -> bool {
        self.0 & BIT_OFFSETS != 0
    }

    /// The payload is a plugin's delta to an earlier version (bit 27).
    #[must_use]
    pub const fn is_delta(self) -> bool {
        self.0 & BIT_DELTA != 0
    }

    /// Written by a plugin (bit 28).
    #[must_use]
    pub const fn is_plugin(self) -> bool {
        self.0 & BIT_PLUGIN != 0
    }

    /// What the payload is.
    #[must_use]
    pub const fn kind(self) -> StreamKind {
        match self.number() {
            1 | 5 => StreamKind::Attributes,
            14 => StreamKind::FinderInfo,
            15 => StreamKind::Acl(Acl { platform: Platform::Unix, scope: AclScope::Access }),
            16 => StreamKind::Acl(Acl { platform: Platform::Unix, scope: AclScope::Default }),
            19 => StreamKind::SignedDigest,
            22 => StreamKind::SessionData,
            26 => StreamKind::PluginName,
            27 => StreamKind::PluginData,
            28 => StreamKind::RestoreObject,
            34 => StreamKind::PluginObject,
            35 => StreamKind::PluginMetadata,
            36 => StreamKind::CatalogMetadata,
            37 => StreamKind::AttributesUpdate,
            38 => StreamKind::FileEvent,
            200 | 201 => StreamKind::Aligned,
            number => {
                if let Some(data) = DataKind::from_number(number) {
                    return StreamKind::Data(DataKind { offsets: self.has_offsets(), ..data });
                }
                if let Some(algorithm) = Algorithm::from_stream(number) {
                    return StreamKind::Digest(algorithm);
                }
                if let Some(acl) = Acl::from_number(number) {
                    return StreamKind::Acl(acl);
                }
                match xattr_platform(number) {
                    Some(platform) => StreamKind::Xattr(platform),
                    None => StreamKind::Unknown,
                }
            }
        }
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({}, flags {:#x})", self.number(), self.0 & !NUMBER_MASK)
    }
}

/// As listings show it: `4 file data, zlib`.
impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.kind())?;
        for (set, name) in [
            (self.is_dedup(), "deduplicated"),
            (self.is_portable(), "portable"),
            (self.is_delta(), "delta"),
            (self.is_plugin(), "plugin"),
        ] {
            if set {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

/// What the payload of a record is, by its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// A file's attributes (1, and 5 of old releases): its first record, plugin streams excepted.
    Attributes,
    /// Attributes that changed while the content did not (37): the content is an earlier job's.
    AttributesUpdate,
    /// Content.
    Data(DataKind),
    /// macOS Finder info, 32 bytes (14).
    FinderInfo,
    /// The digest of the content.
    Digest(Algorithm),
    /// The signed digest (19), see [`crate::crypto::signature`].
    SignedDigest,
    /// Wrapped key of the file's encrypted data (22), see [`crate::crypto::pki`].
    SessionData,
    /// Start or end of what a plugin sends (26), see [`crate::plugin`].
    PluginName,
    /// Plugin data without a known form (27).
    PluginData,
    /// Restore object (28), see [`crate::plugin`].
    RestoreObject,
    /// Plugin object (34), see [`crate::plugin`].
    PluginObject,
    /// A plugin's metadata in its own form (35).
    PluginMetadata,
    /// A plugin's metadata meant for the catalog (36).
    CatalogMetadata,
    /// File event (38).
    FileEvent,
    /// Reference into the data file of an aligned volume (200, 201).
    Aligned,
    /// An access control list.
    Acl(Acl),
    /// Extended attributes of the named platform.
    Xattr(Platform),
    /// A number that no release up to 15.0 defines.
    Unknown,
}

impl fmt::Display for StreamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Attributes => "attributes",
            Self::AttributesUpdate => "attributes update",
            Self::Data(data) => return data.fmt(f),
            Self::FinderInfo => "Finder info",
            Self::Digest(algorithm) => return write!(f, "{} digest", algorithm.name()),
            Self::SignedDigest => "signed digest",
            Self::SessionData => "encryption session data",
            Self::PluginName => "plugin name",
            Self::PluginData => "plugin data",
            Self::RestoreObject => "restore object",
            Self::PluginObject => "plugin object",
            Self::PluginMetadata => "plugin metadata",
            Self::CatalogMetadata => "catalog metadata",
            Self::FileEvent => "file event",
            Self::Aligned => "aligned data reference",
            Self::Acl(acl) => return acl.fmt(f),
            Self::Xattr(platform) => return write!(f, "{platform} extended attributes"),
            Self::Unknown => "unknown stream",
        };
        f.write_str(name)
    }
}

/// How each piece of content is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// One zlib stream (RFC 1950).
    Zlib,
    /// Whatever the 12-byte compression header in front of it names.
    Header,
}

/// How content is wrapped, from the outside in: offset, encryption, compression, BackupRead.
///
/// A *piece* is what the File daemon read at once and compressed on its own. Without encryption every record
/// is one piece; with it the records of a file are one cipher stream that holds length-prefixed pieces
/// (section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataKind {
    /// Each record starts with the u64 offset of its data in the file; what is between is zeros.
    pub sparse: bool,
    /// Each record starts with a u64 offset that does not matter (bit 26).
    pub offsets: bool,
    /// The records of a file are one CBC stream.
    pub encrypted: bool,
    /// How each piece is compressed.
    pub compression: Compression,
    /// The content is a Windows BackupRead stream, see [`crate::codec::win32`].
    pub win32: bool,
    /// macOS resource fork, beside the file's content.
    pub resource_fork: bool,
}

impl DataKind {
    const PLAIN: Self = Self {
        sparse: false,
        offsets: false,
        encrypted: false,
        compression: Compression::None,
        win32: false,
        resource_fork: false,
    };

    const fn from_number(number: u16) -> Option<Self> {
        use Compression::{Header, Zlib};
        let plain = Self::PLAIN;
        Some(match number {
            2 => plain,
            4 => Self { compression: Zlib, ..plain },
            6 => Self { sparse: true, ..plain },
            7 => Self { sparse: true, compression: Zlib, ..plain },
            11 => Self { win32: true, ..plain },
            12 => Self { win32: true, compression: Zlib, ..plain },
            13 => Self { resource_fork: true, ..plain },
            20 => Self { encrypted: true, ..plain },
            21 => Self { encrypted: true, win32: true, ..plain },
            23 => Self { encrypted: true, compression: Zlib, ..plain },
            24 => Self { encrypted: true, win32: true, compression: Zlib, ..plain },
            25 => Self { encrypted: true, resource_fork: true, ..plain },
            29 => Self { compression: Header, ..plain },
            30 => Self { sparse: true, compression: Header, ..plain },
            31 => Self { win32: true, compression: Header, ..plain },
            32 => Self { encrypted: true, compression: Header, ..plain },
            33 => Self { encrypted: true, win32: true, compression: Header, ..plain },
            _ => return None,
        })
    }

    /// Bytes of offset in front of each record: 8 or 0. A sparse stream with bit 26 still has one offset.
    #[must_use]
    pub const fn offset_len(self) -> usize {
        if self.sparse || self.offsets { 8 } else { 0 }
    }

    /// Whether a record's bytes are the file's bytes: neither compressed, encrypted nor BackupRead's.
    #[must_use]
    pub const fn is_verbatim(self) -> bool {
        !self.encrypted && !self.win32 && matches!(self.compression, Compression::None)
    }
}

impl fmt::Display for DataKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.win32, self.resource_fork) {
            (true, _) => "Windows file data",
            (_, true) => "resource fork data",
            _ => "file data",
        })?;
        for (set, name) in [
            (self.sparse, "sparse"),
            (self.offsets, "with offsets"),
            (self.encrypted, "encrypted"),
            (matches!(self.compression, Compression::Zlib), "zlib"),
            (matches!(self.compression, Compression::Header), "compressed"),
        ] {
            if set {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

/// The operating system whose form an ACL or extended attributes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Platform {
    Aix,
    Darwin,
    FreeBsd,
    HpUx,
    Hurd,
    Irix,
    Linux,
    NetBsd,
    OpenBsd,
    /// A File daemon plugin's own form.
    Plugin,
    Solaris,
    /// Solaris system attributes.
    SolarisSystem,
    Tru64,
    /// The deprecated streams 15 and 16 that do not say.
    Unix,
    /// Andrew File System.
    Afs,
    /// In the range kept for ACLs or attributes, platform not known.
    Other,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aix => "AIX",
            Self::Darwin => "macOS",
            Self::FreeBsd => "FreeBSD",
            Self::HpUx => "HP-UX",
            Self::Hurd => "Hurd",
            Self::Irix => "IRIX",
            Self::Linux => "Linux",
            Self::NetBsd => "NetBSD",
            Self::OpenBsd => "OpenBSD",
            Self::Plugin => "plugin",
            Self::Solaris => "Solaris",
            Self::SolarisSystem => "Solaris system",
            Self::Tru64 => "Tru64",
            Self::Unix => "Unix",
            Self::Afs => "AFS",
            Self::Other => "other",
        })
    }
}

/// What an ACL applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AclScope {
    /// Access to the file itself.
    Access,
    /// What new files below the directory get.
    Default,
}

/// An ACL stream: 15, 16, 1000 to 1022.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Acl {
    /// Where it comes from.
    pub platform: Platform,
    /// What it applies to.
    pub scope: AclScope,
}

impl Acl {
    const fn from_number(number: u16) -> Option<Self> {
        use AclScope::{Access, Default};
        let (platform, scope) = match number {
            1000 | 1015 | 1016 => (Platform::Aix, Access),
            1001 => (Platform::Darwin, Access),
            1002 => (Platform::FreeBsd, Default),
            1003 | 1017 => (Platform::FreeBsd, Access),
            1004 => (Platform::HpUx, Access),
            1005 => (Platform::Irix, Default),
            1006 => (Platform::Irix, Access),
            1007 => (Platform::Linux, Default),
            1008 => (Platform::Linux, Access),
            1009 | 1010 => (Platform::Tru64, Default),
            1011 => (Platform::Tru64, Access),
            1012 | 1013 => (Platform::Solaris, Access),
            1014 => (Platform::Afs, Access),
            1018 => (Platform::Hurd, Default),
            1019 => (Platform::Hurd, Access),
            1020 => (Platform::Plugin, Access),
            1021 | 1022 => (Platform::Other, Access),
            _ => return None,
        };
        Some(Self { platform, scope })
    }
}

impl fmt::Display for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            AclScope::Access => "access",
            AclScope::Default => "default",
        };
        write!(f, "{} {scope} ACL", self.platform)
    }
}

const fn xattr_platform(number: u16) -> Option<Platform> {
    Some(match number {
        1987 => Platform::Other,
        1988 => Platform::Plugin,
        1989 => Platform::Hurd,
        1990 => Platform::Irix,
        1991 => Platform::Tru64,
        1992 => Platform::Aix,
        1993 => Platform::OpenBsd,
        1994 => Platform::SolarisSystem,
        1995 => Platform::Solaris,
        1996 => Platform::Darwin,
        1997 => Platform::FreeBsd,
        1998 => Platform::Linux,
        1999 => Platform::NetBsd,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sign_and_flags_do_not_change_the_number() {
        for field in [29, -29, 29 | (1 << 28), -(29 | (1 << 26))] {
            assert_eq!(StreamId::from_header(field).number(), 29);
        }
        assert_eq!(StreamId::from_header(i32::MIN).kind(), StreamKind::Unknown);
        assert!(StreamId::from_header(2 | (1 << 24)).is_dedup());
        assert!(StreamId::from_header(11 | (1 << 25)).is_portable());
    }

    #[test]
    fn offsets_are_outermost_and_only_once() {
        let data = |field| match StreamId::from_header(field).kind() {
            StreamKind::Data(data) => data,
            other => panic!("{other:?}"),
        };
        assert_eq!(data(2).offset_len(), 0);
        assert_eq!(data(6).offset_len(), 8);
        assert_eq!(data(2 | (1 << 26)).offset_len(), 8);
        assert_eq!(data(6 | (1 << 26)).offset_len(), 8);
        assert!(data(2).is_verbatim() && data(6).is_verbatim());
        assert!([4, 11, 20, 29, 33].into_iter().all(|n| !data(n).is_verbatim()));
    }

    /// The table of section 7, one line a stream.
    #[test]
    fn names_for_listings() {
        for (field, name) in [
            (1, "1 attributes"),
            (2, "2 file data"),
            (3, "3 MD5 digest"),
            (4, "4 file data, zlib"),
            (7, "7 file data, sparse, zlib"),
            (10, "10 SHA-1 digest"),
            (13, "13 resource fork data"),
            (18, "18 SHA-512 digest"),
            (24, "24 Windows file data, encrypted, zlib"),
            (25, "25 resource fork data, encrypted"),
            (30, "30 file data, sparse, compressed"),
            (33, "33 Windows file data, encrypted, compressed"),
            (37, "37 attributes update"),
            (41, "41 XXH3-128 digest"),
            (200, "200 aligned data reference"),
            (1007, "1007 Linux default ACL"),
            (1008, "1008 Linux access ACL"),
            (1998, "1998 Linux extended attributes"),
            (8, "8 unknown stream"),
            (2047, "2047 unknown stream"),
            (2 | (1 << 28) | (1 << 27), "2 file data, delta, plugin"),
        ] {
            assert_eq!(StreamId::from_header(field).to_string(), name);
        }
    }

    #[test]
    fn every_number_has_a_kind_and_the_ranges_are_full() {
        let kinds: Vec<StreamKind> = (0..2048).map(|n| StreamId::from_header(n).kind()).collect();
        assert!(kinds[1000..=1022].iter().all(|k| matches!(k, StreamKind::Acl(_))));
        assert!(kinds[1987..=1999].iter().all(|k| matches!(k, StreamKind::Xattr(_))));
        assert_eq!(kinds.iter().filter(|k| matches!(k, StreamKind::Data(_))).count(), 17);
        assert_eq!(kinds.iter().filter(|k| matches!(k, StreamKind::Digest(_))).count(), 7);
    }
}
