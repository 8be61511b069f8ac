//! Metadata blocks that were read and found sound, in bounded memory.
//!
//! A block's checksum is verified when it is read from the device, not each time it is used. Whoever comes first reads
//! it; others who want it at the same time wait for that.

use std::sync::Arc;

use blockdev::{BlockDevice, Error, ErrorKind, Result};
use quick_cache::{Weighter, sync::Cache};

/// The largest block that is kept: a node or a directory block, never content.
const BLOCK_MAX: usize = 1 << 20;

/// Entries a shard of the cache is made for.
const EXPECTED: usize = 1024;

/// Blocks of a device.
pub struct Blocks {
    device: Arc<dyn BlockDevice>,
    kept: Cache<(u64, u32), Arc<[u8]>, ByBytes>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<(u64, u32), Arc<[u8]>> for ByBytes {
    fn weight(&self, _: &(u64, u32), block: &Arc<[u8]>) -> u64 {
        block.len() as u64 + 96
    }
}

impl Blocks {
    /// Those of `device`, of which at most `bytes_max` bytes are kept.
    pub fn new(device: Arc<dyn BlockDevice>, bytes_max: u64) -> Self {
        let expected = EXPECTED.min((bytes_max >> 12) as usize).max(16);
        Self { device, kept: Cache::with_weighter(expected, bytes_max, ByBytes) }
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// The `len` bytes at `offset`. `check` sees them once, when they have been read: an error of it is the answer, and
    /// they are not kept. One place must always be asked for with the same `len` and `check`.
    ///
    /// # Errors
    ///
    /// What `check` says; `Damaged` when the device ends before; what reading it gives.
    pub fn get(&self, offset: u64, len: usize, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<Arc<[u8]>> {
        let key = (offset, u32::try_from(len).unwrap_or(u32::MAX));
        self.kept.get_or_insert_with(&key, || {
            if len > BLOCK_MAX {
                return Err(Error::new(ErrorKind::Limit, format!("a block of {len} bytes at byte {offset}")));
            }
            let mut bytes = vec![0; len];
            let n = self.device.read_at(&mut bytes, offset)?;
            if n < len {
                return Err(Error::damaged(format!("byte {offset} lies behind the end of the volume")));
            }
            check(&bytes)?;
            Ok(bytes.into())
        })
    }
}
