//! NTFS, as Windows NT 4 to Windows 11 write it, and NTFS-3G and Linux' own driver.
//!
//! Everything is a file, and every file is a record of the master file table with attributes: times, names, content,
//! index. An attribute is in its record, or in clusters of the volume that a run list tells.
//!
//! * the volume: [`boot`] (the boot sector), [`mft`] (the master file table), [`record`] and [`fixup`] (a record of it),
//!   [`runs`] (where clusters are), [`kept`] (what is kept of all that in memory);
//! * a file: [`file`] (all its records), [`list`] (attributes that did not fit one), [`value`] (an attribute as a whole),
//!   [`content`] and [`wof`] (as bytes, compressed in the one way and the other), [`lz`] (what those have in common);
//! * directories: [`index`] (B-trees), [`collation`] (the order of names), [`names`], [`directory`];
//! * what a file is to Unix: reparse points, [`interix`] (links and special files), [`ea`], [`security`],
//!   [`stat`] (all together);
//! * [`state`]: whether the guest left it clean; [`usage`]: how full it is; [`filesystem`]: all this as a [`FileSystem`].
//!
//! # What Unix sees
//!
//! * The files of NTFS itself (`$MFT` ...) are not listed in the root. Names that are there for DOS alone are hidden, and
//!   do not count as links.
//! * Symbolic links and junctions are symbolic links; how their targets are written, [`reparse`] tells. Interix' and
//!   WSL's special files are what they stand for.
//! * Owner, group and permissions are those that WSL wrote, where it did. Otherwise files are 0644, directories 0755, and
//!   the attribute "read-only" takes the write bits from files: on directories it means nothing to Windows.
//! * Extended attributes: `system.ntfs_acl` (the security descriptor), `system.ntfs_attrib` (file attributes, 32 bits
//!   little-endian), `system.ntfs_reparse_data` (tag and data), as NTFS-3G calls them; and those of `$EA`, with Linux'
//!   names where Linux wrote them, otherwise in `user.`.
//! * Content that is encrypted (EFS), or not on the volume (cloud files, deduplicated ones), is an error of that file.

mod boot;
mod collation;
mod content;
mod directory;
mod ea;
mod file;
mod filesystem;
mod fixup;
mod index;
mod interix;
mod kept;
mod list;
mod lz;
mod mft;
mod names;
mod record;
mod runs;
mod security;
mod stat;
mod state;
mod usage;
mod value;
mod wof;

use std::sync::Arc;

use blockdev::{BlockDevice, Result};

use crate::FileSystem;

/// The filesystem on `device`.
///
/// # Errors
///
/// When it is not one, or has features that cannot be read.
pub fn open(device: &Arc<dyn BlockDevice>) -> Result<Arc<dyn FileSystem>> {
    Ok(Arc::new(filesystem::Ntfs::open(device)?))
}
