//! A volume as it would be after the replay of its journal: the device, and blocks in the place of some of its own.
//!
//! The journal of a disk that was copied while its guest ran has what is not yet in its place. Replaying it on the disk
//! is impossible (a backup is read only) and not needed: the blocks are looked up here first.

use std::{collections::BTreeMap, sync::Arc};

use blockdev::{
    BlockDevice, BlockSizes, Error, ErrorKind, Extent, ExtentKind, MappedRun, ReadAt, Result, origin::Origin,
};

/// What is in the place of a block.
pub enum Patch {
    /// Bytes of the device elsewhere (in the journal), from this byte on.
    At(u64),
    /// These bytes, of one block's length.
    Bytes(Vec<u8>),
    /// What should be there is damaged in the journal: reading the block is an error.
    Lost,
}

/// Blocks in the place of others.
pub struct Patches {
    block: u64,
    blocks: BTreeMap<u64, Patch>,
    /// Blocks there may be: a bound for what a journal can claim.
    max: usize,
}

impl Patches {
    /// None so far, each of `block` bytes (at least 1), at most `max`.
    pub fn new(block: u32, max: usize) -> Self {
        Self { block: u64::from(block.max(1)), blocks: BTreeMap::new(), max }
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The bytes of block `number` that were put with [`Patch::Bytes`].
    pub fn bytes(&mut self, number: u64) -> Option<&mut [u8]> {
        match self.blocks.get_mut(&number)? {
            Patch::Bytes(bytes) => Some(bytes),
            Patch::At(_) | Patch::Lost => None,
        }
    }

    /// Put `patch` in the place of block `number`, instead of what was put there before.
    ///
    /// # Errors
    ///
    /// `Limit` when there are too many; `Invalid` when the bytes are not a block's.
    pub fn put(&mut self, number: u64, patch: Patch) -> Result<()> {
        if let Patch::Bytes(bytes) = &patch
            && bytes.len() as u64 != self.block
        {
            return Err(Error::invalid(format!("{} bytes in the place of a block of {}", bytes.len(), self.block)));
        }
        if self.blocks.len() >= self.max && !self.blocks.contains_key(&number) {
            return Err(Error::new(ErrorKind::Limit, format!("the journal changes more than {} blocks", self.max)));
        }
        self.blocks.insert(number, patch);
        Ok(())
    }
}

/// A device with blocks in the place of some of its own.
pub struct Patched {
    device: Arc<dyn BlockDevice>,
    patches: Patches,
}

impl Patched {
    /// `device` under `patches`.
    pub fn new(device: Arc<dyn BlockDevice>, patches: Patches) -> Self {
        Self { device, patches }
    }

    /// The patch over `offset`, or none; and where that ends.
    fn at(&self, offset: u64) -> (u64, Option<&Patch>) {
        let (number, block) = (offset / self.patches.block, self.patches.block);
        match self.patches.blocks.range(number..).next() {
            Some((found, patch)) if *found == number => ((number + 1).saturating_mul(block), Some(patch)),
            Some((next, _)) => (next.saturating_mul(block), None),
            None => (u64::MAX, None),
        }
    }
}

impl ReadAt for Patched {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let (mut rest, mut at) = (buf.get_mut(..wanted).unwrap_or_default(), offset);
        while !rest.is_empty() {
            let (end, patch) = self.at(at);
            let n = usize::try_from(end - at).unwrap_or(usize::MAX).min(rest.len());
            let (dest, tail) = rest.split_at_mut(n);
            let skip = at % self.patches.block;
            let done = match patch {
                None => self.device.read_at(dest, at)?,
                Some(Patch::At(place)) => self.device.read_at(dest, place.saturating_add(skip))?,
                Some(Patch::Bytes(bytes)) => bytes.read_at(dest, skip)?,
                Some(Patch::Lost) => {
                    return Err(Error::damaged(format!("what belongs at byte {at} is damaged in the journal")));
                }
            };
            if done < n {
                return Err(Error::damaged(format!("the journal puts what lies behind the volume's end at byte {at}")));
            }
            at += n as u64;
            rest = tail;
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let (end, patch) = self.at(offset);
        if patch.is_some() && offset < self.size() {
            return Ok(Some(Extent { range: offset..end.min(self.size()), kind: ExtentKind::Data }));
        }
        let extent = self.device.extent_at(offset)?;
        Ok(extent.map(|e| Extent { range: offset..e.range.end.min(end), kind: e.kind }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        match self.at(offset) {
            (end, None) => self.device.map(offset, len.min(end - offset)),
            _ => None,
        }
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        match self.at(offset) {
            (end, None) => self.device.origin_at(offset, limit.min(end - offset)),
            (end, Some(_)) => Ok(Origin::unknown(limit.min(end - offset))),
        }
    }
}

impl BlockDevice for Patched {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}
