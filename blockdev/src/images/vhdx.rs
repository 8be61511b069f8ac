//! vhdx.
use super::Opened;
use crate::{Error, ReadAt, Result};
use std::sync::Arc;
/// Open.
pub fn open(_file: Arc<dyn ReadAt>) -> Result<Opened> {
    Err(Error::unsupported("not yet"))
}
