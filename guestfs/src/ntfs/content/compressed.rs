//! Compressed content: units of mostly 16 clusters, each for itself packed, as it is, or a hole.
//!
//! The run list tells which: a unit that has all its clusters is as it is, one without any is zeros, and one that has
//! some, followed by a hole, is packed in those.

use std::sync::Arc;

use blockdev::{
    Error, ReadAt, Result,
    images::layer::{Layer, Place, Run, joined},
};

use super::{
    super::{mft::Mft, value::Stored},
    lznt1,
    plain::place,
};

/// Compressed content.
pub struct Compressed {
    stored: Stored,
    mft: Arc<Mft>,
    files: [Arc<dyn ReadAt>; 1],
    /// Clusters of a unit.
    unit: u64,
}

/// How the clusters from some place in a unit on are.
enum Shape {
    /// All there, or all in a hole, from cluster `lcn` on: so many clusters, of this and of units behind.
    Same { lcn: Option<u64>, clusters: u64 },
    /// Packed.
    Packed,
}

impl Compressed {
    /// That of `stored`, whose units are at most 1 MiB.
    pub fn new(stored: Stored, mft: Arc<Mft>) -> Self {
        let device: Arc<dyn ReadAt> = Arc::<dyn blockdev::BlockDevice>::clone(&mft.clusters.device);
        let unit = 1 << stored.unit_shift;
        Self { stored, mft, files: [device], unit }
    }

    fn unit_bytes(&self) -> u64 {
        self.unit << self.mft.clusters.geometry.cluster_shift
    }

    /// The run at cluster `vcn`. Behind the last the unit has no more clusters.
    fn run(&self, vcn: u64) -> Result<(Option<u64>, u64)> {
        if vcn << self.mft.clusters.geometry.cluster_shift >= self.stored.allocated {
            return Ok((None, self.unit - vcn % self.unit));
        }
        self.stored.at(&self.mft, vcn)
    }

    /// How it is from cluster `vcn` on, whose unit begins at `start`.
    fn shape(&self, start: u64, vcn: u64) -> Result<Shape> {
        let (first, len) = self.run(start)?;
        // Whole units.
        let whole = len - len % self.unit;
        if whole > 0 {
            let lcn = first.map(|lcn| lcn + (vcn - start));
            return Ok(Shape::Same { lcn, clusters: whole - (vcn - start) });
        }
        let (mut at, mut has_hole, mut has_data, mut here) = (start, false, false, (first, len));
        while at < start + self.unit {
            let (lcn, len) = self.run(at)?;
            let len = len.min(start + self.unit - at);
            has_hole |= lcn.is_none();
            has_data |= lcn.is_some();
            if (at..at + len).contains(&vcn) {
                here = (lcn.map(|lcn| lcn + (vcn - at)), len - (vcn - at));
            }
            at += len;
        }
        if has_hole && has_data {
            return Ok(Shape::Packed);
        }
        Ok(Shape::Same { lcn: here.0, clusters: here.1 })
    }

    fn piece(&self, at: u64) -> Result<Run> {
        let written = self.stored.initialized.saturating_sub(at);
        if written == 0 {
            return Ok(Run { len: self.stored.size.saturating_sub(at), place: Place::Zero });
        }
        let geometry = &self.mft.clusters.geometry;
        let (unit, within) = (at / self.unit_bytes(), at % self.unit_bytes());
        let (vcn, skip) = (at >> geometry.cluster_shift, at & (geometry.cluster() - 1));
        let (len, place) = match self.shape(unit * self.unit, vcn)? {
            Shape::Packed => (self.unit_bytes() - within, Place::Packed { unit, skip: within as u32 }),
            Shape::Same { lcn, clusters } => {
                (clusters.saturating_mul(geometry.cluster()) - skip, place(lcn.map(|lcn| geometry.byte_of(lcn) + skip)))
            }
        };
        Ok(Run { len: len.min(written), place })
    }
}

impl Layer for Compressed {
    fn size(&self) -> u64 {
        self.stored.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        joined(offset, limit, self.stored.size, |at| self.piece(at))
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }

    fn unpack(&self, unit: u64, out: &mut Vec<u8>) -> Result<()> {
        let geometry = &self.mft.clusters.geometry;
        if unit >= self.stored.size.div_ceil(self.unit_bytes()) {
            return Err(Error::invalid(format!("there is no unit {unit}")));
        }
        let start = unit * self.unit;
        let mut packed = Vec::with_capacity(self.unit_bytes() as usize);
        let mut at = start;
        while at < start + self.unit {
            let (Some(lcn), len) = self.run(at)? else { break };
            let len = len.min(start + self.unit - at);
            let before = packed.len();
            packed.resize(before + (len << geometry.cluster_shift) as usize, 0);
            let dest = packed.get_mut(before..).unwrap_or_default();
            self.mft.clusters.read_at(dest, geometry.byte_of(lcn))?;
            at += len;
        }
        lznt1::unpack(&packed, self.unit_bytes() as usize, out).map_err(|e| {
            let (file, at) = (self.stored.file, unit * self.unit_bytes());
            e.context(format!("NTFS file record {file}: the compressed unit at byte {at} of its content"))
        })
    }
}
