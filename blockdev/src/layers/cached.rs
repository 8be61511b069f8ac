//! What was read, kept in memory: for devices that compute or fetch their bytes.
//!
//! A block is read once however many threads ask for it at the same time, and a long sequential read does not drive out
//! what is read often (`quick_cache` sees to both). There is no write side: a cache that is told of writes and one
//! that is not are different things, and the devices that need a cache, in backups and over networks, do not change.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};

use super::within;
use crate::{BlockDevice, BlockSizes, Error, Extent, MappedRun, ReadAt, Result, origin::Origin};

/// A device that does not change, and blocks of it in memory.
pub struct Cached<D> {
    device: D,
    block: u64,
    blocks: Cache<u64, Arc<[u8]>, ByBytes>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<u64, Arc<[u8]>> for ByBytes {
    fn weight(&self, _: &u64, block: &Arc<[u8]>) -> u64 {
        block.len() as u64 + 64
    }
}

impl<D: ReadAt> Cached<D> {
    /// `device` by blocks of `block` bytes, of which at most `bytes_max` bytes are kept; a block is read whole.
    ///
    /// # Errors
    ///
    /// `Invalid` when a block is smaller than 512 bytes, larger than 16 MiB, or larger than what may be kept.
    pub fn new(device: D, block: u32, bytes_max: u64) -> Result<Self> {
        let block = u64::from(block);
        if !(512..=16 << 20).contains(&block) || block + 64 > bytes_max {
            return Err(Error::invalid(format!("a cache of {bytes_max} bytes cannot keep blocks of {block} bytes")));
        }
        let items = usize::try_from(bytes_max / block).unwrap_or(usize::MAX).clamp(1, 1 << 20);
        // One shard only while there are few blocks: a block must fit into its shard's part of the memory.
        let shards = (items / 16).clamp(1, 32);
        let options = quick_cache::OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(items)
            .weight_capacity(bytes_max)
            .build()
            .map_err(|e| Error::invalid(format!("a cache of {bytes_max} bytes")).with_source(e))?;
        let blocks =
            Cache::with_options(options, ByBytes, quick_cache::DefaultHashBuilder::default(), Default::default());
        Ok(Self { device, block, blocks })
    }

    /// Bytes that are kept now.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.blocks.weight()
    }

    fn block(&self, number: u64) -> Result<Arc<[u8]>> {
        self.blocks.get_or_insert_with(&number, || {
            let start = number * self.block;
            let mut bytes = vec![0; self.block.min(self.device.size().saturating_sub(start)) as usize];
            let n = self.device.read_at(&mut bytes, start)?;
            if n < bytes.len() {
                return Err(Error::damaged(format!("the device ends at byte {}, before its size", start + n as u64)));
            }
            Ok(bytes.into())
        })
    }
}

impl<D: ReadAt> ReadAt for Cached<D> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = within(buf.len(), offset, self.size());
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..wanted).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let block = self.block(at / self.block)?;
            let from = block.get((at % self.block) as usize..).unwrap_or_default();
            let n = from.len().min(rest.len());
            if n == 0 {
                return Err(Error::damaged(format!("the device has nothing at byte {at}, before its size")));
            }
            rest[..n].copy_from_slice(&from[..n]);
            done += n;
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.device.extent_at(offset)
    }

    /// What lies in a file as it is needs no cache.
    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        self.device.map(offset, len)
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        self.device.origin_at(offset, limit)
    }
}

impl<D: BlockDevice> BlockDevice for Cached<D> {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}
