//! ZFS: pools of version 1 to 28 and with features, of either byte order, on one or several devices.
//!
//! A pool is a tree of blocks under an uberblock. Each pointer in it has the checksum of what it points to, so that
//! whatever is read from here on is either what the guest wrote or an error:
//!
//! * `label`: a device's labels: what belongs to the pool, and the ring of uberblocks;
//! * `vdev`: mirrors and RAID-Z groups of devices, some of which may be missing;
//! * `pool` (with `block_pointer`, `checksum`, `compression`): blocks, from whichever copy is sound;
//! * `dnode`, `objset`: objects, that is, trees of blocks, and numbered sets of them;
//! * `zap`, `nvlist`: names with values, in hash tables and in packed lists;
//! * `dsl`, `features`: the pool's own objects: which datasets there are, and what must be known to read them;
//! * `dataset`, `zpl`, `content`: trees of files and volumes;
//! * `log`: what is known to lack;
//! * `tree`: all datasets as one tree.
//!
//! # The tree
//!
//! The root is the topmost dataset's. A dataset `pool/a/b` is the folder `a/b`, over whatever file of that name there may
//! be in `pool/a`. Each has a folder `.zfs/snapshot` with its snapshots. A volume `pool/a/v` is the file `a/v`; its
//! snapshots are the files in `a/.zfs/volumes/v`. What is encrypted is
//! shown as an empty folder or file that gives an error.
//!
//! The state is that of the last complete transaction group, which is always consistent. What the guest wrote
//! synchronously after it lies in intent logs, which are not replayed.

mod block_pointer;
mod checksum;
mod compression;
mod content;
mod dataset;
mod dnode;
mod dsl;
mod features;
mod import;
mod label;
mod log;
mod nvlist;
mod objset;
mod order;
mod pool;
mod tree;
mod vdev;
mod zap;
mod zpl;

use std::sync::Arc;

use blockdev::{BlockDevice, Result};

use crate::FileSystem;

/// The pool on `devices`.
///
/// # Errors
///
/// When it is not one, or has features that cannot be read.
pub fn open(devices: &[Arc<dyn BlockDevice>]) -> Result<Arc<dyn FileSystem>> {
    let imported = import::import(devices)?;
    Ok(Arc::new(tree::Tree::new(imported)?))
}
