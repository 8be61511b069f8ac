//! What a server of disks serves: something to read, or something to read and write.

use std::{fmt, sync::Arc};

use blockdev::{BlockDevice, WriteAt};

/// A disk, and with it whether clients may write.
#[derive(Clone)]
pub enum Disk {
    /// Clients read.
    ReadOnly(Arc<dyn BlockDevice>),
    /// Clients read and write.
    Writable(Arc<dyn WriteAt>),
}

impl Disk {
    /// The side that reads.
    #[must_use]
    pub fn device(&self) -> &dyn BlockDevice {
        match self {
            Self::ReadOnly(disk) => disk.as_ref(),
            Self::Writable(disk) => disk.as_ref(),
        }
    }

    /// The side that writes.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn writable(&self) -> Option<&dyn WriteAt> {
        match self {
            Self::ReadOnly(_) => None,
            Self::Writable(disk) => Some(disk.as_ref()),
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::ReadOnly(_) => "ReadOnly",
            Self::Writable(_) => "Writable",
        };
        write!(f, "{kind}({} bytes)", self.device().size())
    }
}
