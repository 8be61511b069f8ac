//! A volume put together from parts of devices: the map that LVM2 and md volumes come down to.
//!
//! It is a [`Layer`] like the map of an image file, so that reading, zero-copy and extents are those of
//! [`Disk`](crate::images::Disk).

use std::sync::Arc;

use super::{
    lvm::{snapshot::Snapshot, thin::Thin},
    raid::{Area, Raid},
};
use crate::{
    BlockDevice, BlockSizes, Error, ErrorKind, ReadAt, Result,
    images::{
        Disk,
        layer::{Layer, Place, Run},
    },
};

/// Where a segment's bytes are.
pub enum Target {
    /// Zeros.
    Zero,
    /// One area.
    Linear(Area),
    /// An array.
    Raid(Raid),
    /// A volume of a thin pool.
    Thin(Thin),
    /// A snapshot with a store of what has changed.
    Snapshot(Snapshot),
    /// Nowhere: why, and what to do.
    Gone(String),
}

/// A map being made, and then the map.
#[derive(Default)]
pub struct Map {
    size: u64,
    /// Where each segment begins, ascending, without gaps.
    segments: Vec<(u64, Target)>,
    files: Vec<Arc<dyn ReadAt>>,
    sizes: Option<BlockSizes>,
}

impl Map {
    /// The number by which areas name `device`.
    pub fn file(&mut self, device: &Arc<dyn BlockDevice>) -> u32 {
        let sizes = device.block_sizes();
        let largest = self.sizes.unwrap_or(sizes);
        self.sizes = Some(BlockSizes {
            logical: largest.logical.max(sizes.logical),
            physical: largest.physical.max(sizes.physical),
        });
        let device = Arc::clone(device) as Arc<dyn ReadAt>;
        let known = self.files.iter().position(|f| Arc::ptr_eq(f, &device));
        let number = known.unwrap_or_else(|| {
            self.files.push(device);
            self.files.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// All of `device` from `offset` on, at most `len` bytes.
    pub fn area(&mut self, device: &Arc<dyn BlockDevice>, offset: u64, len: u64) -> Area {
        let len = len.min(device.size().saturating_sub(offset));
        Area { file: self.file(device), offset, len }
    }

    /// Adds `len` bytes at the end.
    ///
    /// # Errors
    ///
    /// `Damaged` when the volume would become larger than a volume can be.
    pub fn push(&mut self, len: u64, target: Target) -> Result<()> {
        let end = self.size.checked_add(len).filter(|end| *end < 1 << 63);
        let end = end.ok_or_else(|| Error::damaged("the segments of the volume are larger than a disk can be"))?;
        if len > 0 {
            self.segments.push((self.size, target));
            self.size = end;
        }
        Ok(())
    }

    /// The volume.
    ///
    /// # Errors
    ///
    /// None that depends on data.
    pub fn into_device(self) -> Result<Arc<dyn BlockDevice>> {
        let sizes = self.sizes.unwrap_or(BlockSizes::CLASSIC);
        Ok(Arc::new(Disk::new(vec![Arc::new(self) as Arc<dyn Layer>], sizes)?))
    }

    /// The segment that has `offset`: its target, where it begins, and where it ends.
    fn segment(&self, offset: u64) -> Result<(&Target, u64, u64)> {
        let next = self.segments.partition_point(|(start, _)| *start <= offset);
        let found = next.checked_sub(1).and_then(|i| self.segments.get(i)).filter(|_| offset < self.size);
        let (start, target) =
            found.ok_or_else(|| Error::invalid(format!("byte {offset} lies behind the end of the volume")))?;
        Ok((target, *start, self.segments.get(next).map_or(self.size, |(end, _)| *end)))
    }
}

impl Layer for Map {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        let (target, start, end) = self.segment(offset)?;
        let (at, limit) = (offset - start, limit.min(end - offset));
        match target {
            Target::Zero => Ok(Run { len: limit, place: Place::Zero }),
            Target::Linear(area) => area.run(at, limit),
            Target::Raid(raid) => {
                let run = raid.run_at(at, limit)?;
                // Units are counted in the volume, a raid counts in its segment.
                Ok(match run.place {
                    Place::Packed { unit, skip } => {
                        Run { len: run.len, place: Place::Packed { unit: unit.saturating_add(start), skip } }
                    }
                    _ => run,
                })
            }
            Target::Thin(thin) => thin.run_at(at, limit),
            Target::Snapshot(snapshot) => snapshot.run_at(at, limit),
            Target::Gone(why) => Err(Error::new(ErrorKind::Missing, why.clone())),
        }
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }

    fn unpack(&self, unit: u64, out: &mut Vec<u8>) -> Result<()> {
        match self.segment(unit)? {
            (Target::Raid(raid), start, _) => raid.compute(unit - start, &self.files, out),
            _ => Err(Error::invalid("this part of the volume is not computed")),
        }
    }
}
