//! VHD.
use super::Opened;
use crate::{Error, ReadAt, Result};
use std::sync::Arc;
/// Open.
pub fn open(_file: Arc<dyn ReadAt>) -> Result<Opened> {
    Err(Error::unsupported("not yet"))
}
/// Whether `file` ends with the footer of a fixed VHD.
pub fn is_fixed(_file: &dyn ReadAt) -> Result<bool> {
    Ok(false)
}
