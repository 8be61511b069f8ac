//! qcow2.
use super::Opened;
use crate::{Error, ReadAt, Result};
use std::sync::Arc;
/// Open.
pub fn open(_file: Arc<dyn ReadAt>, _n: &dyn super::gate::Neighbours) -> Result<Opened> {
    Err(Error::unsupported("not yet"))
}
