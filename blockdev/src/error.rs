//! One error type for the whole workspace: a small stable kind to match on, a sentence for people, and the cause.
//!
//! New formats and new sources add no kinds. The sentence names the thing, the place and, where there is
//! one, the remedy; it is complete without the cause, which is printed after it once.

use std::{borrow::Cow, error::Error as StdError, fmt, io};

/// The result of everything in this workspace that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of failure it is, for code that has to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The stored bytes contradict themselves or their checksum.
    Damaged,
    /// A volume, an extent file or another part that is needed is not at hand.
    Missing,
    /// A key or a permission is needed that was not given.
    Locked,
    /// The format is known and not supported, or not known at all.
    Unsupported,
    /// The caller asked for something that makes no sense.
    Invalid,
    /// A configured bound was reached.
    Limit,
    /// There is no space left where something had to be written, or what may be used of it is used up.
    NoSpace,
    /// The name is taken already.
    Exists,
    /// The directory has something in it.
    NotEmpty,
    /// The operating system or a network peer reported an error.
    Io,
}

impl ErrorKind {
    /// The `errno` that a filesystem door reports for this kind.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotFound => 2,                                         // ENOENT
            Self::Locked => 13,                                          // EACCES
            Self::Invalid => 22,                                         // EINVAL
            Self::NoSpace => 28,                                         // ENOSPC
            Self::Exists => 17,                                          // EEXIST
            Self::NotEmpty => 39,                                        // ENOTEMPTY
            Self::Unsupported => 95,                                     // EOPNOTSUPP
            Self::Damaged | Self::Missing | Self::Limit | Self::Io => 5, // EIO
        }
    }
}

/// A failure: its kind, a sentence that names thing, place and remedy, and what caused it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`, told by `message`.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An operating-system error, with what was being done to which thing (`"cannot read /dev/sdb"`).
    pub fn io(message: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::Locked,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            io::ErrorKind::DirectoryNotEmpty => ErrorKind::NotEmpty,
            _ => ErrorKind::Io,
        };
        Self::new(kind, message).with_source(source)
    }

    /// Stored bytes that contradict themselves.
    pub fn damaged(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Damaged, message)
    }

    /// A thing that does not exist.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// A format that cannot be read.
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// A request that makes no sense.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// The same failure seen from further out: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message).into();
        self
    }

    /// What sort of failure it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

// `Display` already tells the cause, so `source()` stays empty: a chain printer would say it twice.
impl StdError for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::from_raw_os_error(error.kind().errno())
    }
}
