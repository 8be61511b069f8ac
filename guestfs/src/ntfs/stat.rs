//! What a file is to Unix, gathered from the attributes that say something of it.

use blockdev::{
    Error, Result,
    fields::{le32, le64},
};

use super::{
    directory,
    ea::{self, Unix},
    file::File,
    interix::{self, Special},
    names::flag,
    record::kind,
    wof,
};
use crate::{
    Kind, Metadata, Xattr,
    windows::{
        filetime,
        reparse::{Content, REPARSE_MAX, Reparse},
    },
};

/// The longest standard information.
const STANDARD_MAX: usize = 1024;

/// What is known of a file besides its content.
pub struct Stat {
    standard: Vec<u8>,
    /// Its reparse point.
    pub reparse: Option<Reparse>,
    special: Option<Special>,
    unix: Unix,
    /// Its extended attributes in `$EA`, as far as they are not owner and mode.
    pub attributes: Vec<Xattr>,
    is_directory: bool,
}

impl Stat {
    /// What is known of `file`.
    pub fn of(file: &File) -> Result<Self> {
        let value = |kind, max| {
            let value = file.value(kind, &[])?;
            value.map(|value| value.bytes(file.mft(), max)).transpose().map_err(|e| file.told(e))
        };
        let standard = value(kind::STANDARD_INFORMATION, STANDARD_MAX)?.filter(|bytes| bytes.len() >= 36);
        let standard = standard.ok_or_else(|| file.told(Error::damaged("it has no standard information")))?;
        let reparse = value(kind::REPARSE_POINT, REPARSE_MAX)?.map(Reparse::new);
        let (unix, attributes) = match value(kind::EA, ea::EA_MAX)? {
            Some(bytes) => ea::parse(&bytes).map_err(|e| file.told(e))?,
            None => Default::default(),
        };
        let is_directory = file.record().is_directory();
        let mut stat = Self { standard, reparse, special: None, unix, attributes, is_directory };
        // Windows has hidden system files that are empty; special ones are not hidden.
        let is_special = stat.flags() & (flag::SYSTEM | flag::HIDDEN) == flag::SYSTEM;
        if is_special && !is_directory && stat.reparse.is_none() {
            stat.special = special(file)?;
        }
        Ok(stat)
    }

    /// File attributes as stored.
    fn flags(&self) -> u32 {
        le32(&self.standard, 32)
    }

    /// File attributes as Windows shows them.
    pub fn shown_flags(&self) -> u32 {
        let mut flags = self.flags() & !flag::DIRECTORY;
        if self.is_directory {
            flags |= flag::DIRECTORY;
        }
        if self.is_wof() {
            // Windows hides what these files are made of.
            flags &= !(flag::REPARSE_POINT | flag::SPARSE);
        }
        if flags == 0 { flag::NORMAL } else { flags }
    }

    /// The number of its security descriptor; 0: it has its own.
    pub fn security(&self) -> u32 {
        // Standard information grew in NTFS 3.0.
        le32(&self.standard, 52)
    }

    /// Type.
    pub fn kind(&self) -> Kind {
        let other = if self.is_directory { Kind::Dir } else { Kind::File };
        let reparse = self.reparse.as_ref().and_then(Reparse::kind);
        reparse.or_else(|| self.special.as_ref().map(|special| special.kind)).unwrap_or(other)
    }

    /// What the symbolic link points to.
    pub fn target(&self) -> Result<Vec<u8>> {
        match (&self.reparse, &self.special) {
            (Some(reparse), _) if self.kind() == Kind::Symlink => reparse.target(),
            (None, Some(special)) if special.kind == Kind::Symlink => Ok(special.target.clone()),
            _ => Err(Error::invalid("it is not a symbolic link")),
        }
    }

    /// Where the content is.
    pub fn content(&self) -> Content {
        self.reparse.as_ref().map_or(Content::Here, Reparse::content)
    }

    /// Whether it is a compressed system file.
    pub fn is_wof(&self) -> bool {
        matches!(self.content(), Content::Packed(_))
    }

    /// Whether its content would have to be fetched.
    pub fn is_offline(&self) -> bool {
        self.flags() & (flag::OFFLINE | flag::RECALL_ON_OPEN | flag::RECALL_ON_DATA_ACCESS) != 0
    }

    /// As `stat` says it.
    pub fn metadata(&self, file: &File) -> Result<Metadata> {
        let kind = self.kind();
        let time = |at| filetime::time(le64(&self.standard, at));
        let (size, allocated) = match kind {
            Kind::File => {
                let size = file.value(kind::DATA, &[])?.map_or((0, 0), |data| (data.size(), data.allocated()));
                let packed = if self.is_wof() { file.value(kind::DATA, wof::STREAM)? } else { None };
                packed.map_or(size, |packed| (size.0, packed.allocated()))
            }
            Kind::Dir => directory::size(file)?,
            // Why a target cannot be told, reading the link will say.
            Kind::Symlink => (self.target().map_or(0, |target| target.len() as u64), 0),
            _ => (0, 0),
        };
        let device = self.unix.device.or_else(|| self.special.as_ref().map(|special| special.device));
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        Ok(Metadata {
            kind,
            permissions: self.permissions(kind),
            nlink: file.links()?.max(1),
            uid: self.unix.uid.unwrap_or(0),
            gid: self.unix.gid.unwrap_or(0),
            rdev: device.filter(|_| is_device).unwrap_or_default(),
            size,
            allocated,
            accessed: time(24),
            modified: time(8),
            changed: time(16),
            created: Some(time(0)),
        })
    }

    fn permissions(&self, kind: Kind) -> u32 {
        let usual = match kind {
            Kind::Dir => return self.unix.mode.map_or(0o755, |mode| mode & 0o7777),
            Kind::Symlink => return 0o777,
            _ => self.unix.mode.map_or(0o644, |mode| mode & 0o7777),
        };
        if self.flags() & flag::READ_ONLY != 0 { usual & !0o222 } else { usual }
    }
}

/// What `file` stands for, if it is one of Interix' special files.
fn special(file: &File) -> Result<Option<Special>> {
    let Some(data) = file.value(kind::DATA, &[])?.filter(|data| data.size() <= interix::CONTENT_MAX) else {
        return Ok(None);
    };
    // What cannot be read is no special file; reading it will say why.
    Ok(data.bytes(file.mft(), interix::CONTENT_MAX as usize).ok().and_then(|content| interix::parse(&content)))
}
