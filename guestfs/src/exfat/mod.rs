//! exFAT.

use std::sync::Arc;

use blockdev::{BlockDevice, Error, Result};

use crate::FileSystem;

/// The filesystem on `device`.
///
/// # Errors
///
/// When it is not one, or has features that cannot be read.
pub fn open(device: Arc<dyn BlockDevice>) -> Result<Arc<dyn FileSystem>> {
    let _ = device;
    Err(Error::unsupported("exfat cannot be read yet"))
}
