//! A device of a pool, or the place of one that is not at hand.

use std::sync::Arc;

use blockdev::{BlockDevice, Error, ErrorKind, Result};

/// Bytes before the space that blocks lie in: two labels and room for a boot loader.
const SPACE_START: u64 = 4 << 20;

/// A device of a pool.
#[derive(Clone)]
pub struct Leaf {
    /// The device; `None` when it is not at hand.
    pub device: Option<Arc<dyn BlockDevice>>,
    /// What the pool calls it, for messages.
    pub name: String,
}

impl Leaf {
    /// Fills `buf` from byte `offset` of its space on.
    ///
    /// # Errors
    ///
    /// `Missing` when it is not at hand, `Damaged` when the device ends before, what reading it gives.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Some(device) = &self.device else {
            return Err(Error::new(ErrorKind::Missing, format!("{} is not at hand: open the pool with it", self.name)));
        };
        let place = offset.checked_add(SPACE_START);
        let read = place.map(|place| device.read_at(buf, place)).transpose()?;
        if read == Some(buf.len()) {
            Ok(())
        } else {
            Err(Error::damaged(format!("byte {offset} lies behind the end of {}", self.name)))
        }
    }
}
