//! FAT12, FAT16 and FAT32.
//!
//! A volume is a boot sector, one or two copies of the file allocation table, and clusters. The table has a number for
//! each cluster: that of the next one of the same file. A directory is a file of 32-byte slots.
//!
//! * `boot`: the boot sector, and what follows from it;
//! * `entry`: slots put together to entries with their names, long and short; `oem`: the letters of short names;
//! * `volume`: the filesystem.
//!
//! exFAT is made of the same parts, and uses these too:
//!
//! * `clusters`: the table, chains of clusters as runs, and the content of files;
//! * `slots`: the slots of a directory;
//! * `times`: the packed date and time.
//!
//! # What is shown, and how
//!
//! * [`FileId::number`](crate::FileId) is the byte of the volume at which the short entry of the file is; 1 is the root.
//! * Times are local time of the machine that wrote them, and the volume does not say which: they are given as UTC. A
//!   date of zero means that it was not kept: the last access is then that of the last change.
//! * Short names without a long one are read in code page 850, see `oem`.
//! * A chain that is damaged in the first table is read in the second, where the two are kept alike.

mod boot;
pub(crate) mod clusters;
mod entry;
mod oem;
pub(crate) mod slots;
pub(crate) mod times;
mod volume;

use std::sync::Arc;

use blockdev::{BlockDevice, Result};

use crate::FileSystem;

/// The filesystem on `device`.
///
/// # Errors
///
/// When it is not one, or has features that cannot be read.
pub fn open(device: Arc<dyn BlockDevice>) -> Result<Arc<dyn FileSystem>> {
    Ok(Arc::new(volume::Fat::open(device)?))
}
