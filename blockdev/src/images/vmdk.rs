//! VMDK.
use super::{Opened, gate::Neighbours};
use crate::{Error, ReadAt, Result};
use std::sync::Arc;
/// Open.
pub fn open(_file: Arc<dyn ReadAt>, _n: &dyn Neighbours) -> Result<Opened> {
    Err(Error::unsupported("not yet"))
}
/// Whether these are the first bytes of a descriptor.
pub fn is_descriptor(_head: &[u8]) -> bool {
    false
}
