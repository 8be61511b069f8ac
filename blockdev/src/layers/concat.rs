//! Devices one after another as one device: the extents of a disk in several files.

use std::ops::Range;

use super::{checked, range_of, within};
use crate::{BlockDevice, BlockSizes, Error, Extent, MappedRun, ReadAt, Result, WriteAt, origin::Origin};

/// Several devices, the end of one being the start of the next.
#[derive(Debug, Clone)]
pub struct Concat<D> {
    /// Each with the offset of its end.
    parts: Vec<(u64, D)>,
    size: u64,
}

impl<D: ReadAt> Concat<D> {
    /// `devices`, in this order. Those of no bytes are left out.
    ///
    /// # Errors
    ///
    /// `Invalid` when there are none, or their sizes together do not fit 64 bits.
    pub fn new(devices: impl IntoIterator<Item = D>) -> Result<Self> {
        let mut parts = Vec::new();
        let mut size = 0_u64;
        let mut any = false;
        for device in devices {
            any = true;
            let len = device.size();
            size = size.checked_add(len).ok_or_else(|| Error::invalid("devices of more than 2^64 bytes together"))?;
            if len > 0 {
                parts.push((size, device));
            }
        }
        if any { Ok(Self { parts, size }) } else { Err(Error::invalid("a device of no parts")) }
    }

    /// The part that holds `offset`, and where it starts.
    fn part(&self, offset: u64) -> Option<(u64, &D)> {
        let (end, device) = self.parts.get(self.parts.partition_point(|(end, _)| *end <= offset))?;
        Some((end - device.size(), device))
    }

    /// Do `each` with every part that `range` touches, and the range in it.
    fn by_part(&self, range: Range<u64>, mut each: impl FnMut(&D, Range<u64>) -> Result<()>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let Some((start, device)) = self.part(at) else { break };
            let end = range.end.min(start + device.size());
            each(device, at - start..end - start)?;
            at = end;
        }
        Ok(())
    }
}

impl<D: ReadAt> ReadAt for Concat<D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = within(buf.len(), offset, self.size);
        let mut rest = buf.get_mut(..n).unwrap_or_default();
        self.by_part(offset..offset.saturating_add(n as u64), |device, range| {
            let wanted = ((range.end - range.start) as usize).min(rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut(wanted);
            rest = later;
            match device.read_at(now, range.start)? {
                read if read == wanted => Ok(()),
                _ => Err(Error::damaged(format!("a part of the device ends before byte {}", range.end))),
            }
        })?;
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let Some((start, device)) = self.part(offset) else { return Ok(None) };
        let extent = device.extent_at(offset - start)?;
        Ok(extent.map(|e| Extent { range: offset..start + e.range.end.min(device.size()), ..e }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        let (start, device) = self.part(offset)?;
        device.map(offset - start, len.min(device.size() - (offset - start)))
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        match self.part(offset) {
            Some((start, device)) => {
                let within = device.size() - (offset - start);
                device.origin_at(offset - start, limit.min(within))
            }
            None => Ok(Origin::unknown(limit)),
        }
    }
}

impl<D: BlockDevice> BlockDevice for Concat<D> {
    /// Those of the part with the largest blocks.
    fn block_sizes(&self) -> BlockSizes {
        self.parts.iter().map(|(_, device)| device.block_sizes()).fold(BlockSizes::CLASSIC, |a, b| BlockSizes {
            logical: a.logical.max(b.logical),
            physical: a.physical.max(b.physical),
        })
    }
}

impl<D: WriteAt> WriteAt for Concat<D> {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut rest = buf;
        self.by_part(checked(range_of(offset, buf.len()), self.size)?, |device, range| {
            let (now, later) = rest.split_at(((range.end - range.start) as usize).min(rest.len()));
            rest = later;
            device.write_at(now, range.start)
        })
    }

    fn write_zeroes(&self, range: Range<u64>, keep: bool) -> Result<()> {
        self.by_part(checked(range, self.size)?, |device, range| device.write_zeroes(range, keep))
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.by_part(checked(range, self.size)?, WriteAt::discard)
    }

    fn flush(&self) -> Result<()> {
        // All are asked even when one fails: each may have something that the others do not.
        self.parts.iter().map(|(_, device)| device.flush()).fold(Ok(()), Result::and)
    }
}
