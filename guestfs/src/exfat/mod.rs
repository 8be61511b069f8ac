//! exFAT.
//!
//! What FAT would be if it were made for large disks: a boot region with a checksum and a copy, clusters with a table
//! that contiguous files do without, and directories whose entries are sets of slots with a checksum each. What it shares
//! with FAT (clusters, chains, slots, packed times) is in [`fat`](crate::fat).
//!
//! * `boot`: the boot region, main or backup;
//! * `set`: the entry set of a file;
//! * `volume`: the filesystem.
//!
//! # What is shown, and how
//!
//! * [`FileId::number`](crate::FileId) is the byte of the volume at which the first slot of the file's set is. Slots are
//!   at multiples of 32; the lowest bit says that the directory is contiguous, since a set may go on in the next cluster
//!   and the table says nothing of a contiguous directory. 2 is the root.
//! * A set whose checksum is wrong is listed, so that somebody sees that there is a file; everything else of it is
//!   refused. What is no set at all is left out, and the listing ends with an error.
//! * Behind the valid length of a file come zeros, whatever the clusters have.
//! * Times without an offset from UTC are taken as UTC.
//! * Names are found exactly as spelled: the up-case table and the name hashes serve those who do not care for case.
//!   Transactions of TexFAT and the volume's GUID are not looked at.

mod boot;
mod set;
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
    Ok(Arc::new(volume::ExFat::open(device)?))
}
