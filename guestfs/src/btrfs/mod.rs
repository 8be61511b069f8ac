//! btrfs.

use std::sync::Arc;

use blockdev::{BlockDevice, Error, Result};

use crate::FileSystem;

/// The filesystem on `devices`.
///
/// # Errors
///
/// When it is not one, or has features that cannot be read.
pub fn open(devices: &[Arc<dyn BlockDevice>]) -> Result<Arc<dyn FileSystem>> {
    let _ = devices;
    Err(Error::unsupported("btrfs cannot be read yet"))
}
