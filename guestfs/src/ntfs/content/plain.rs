//! Content that is as it is in its clusters: with holes, and with zeros behind what was written.

use std::sync::Arc;

use blockdev::{
    ReadAt, Result,
    images::layer::{Layer, Place, Run, joined},
};

use super::super::{mft::Mft, value::Stored};

/// Content as it is.
pub struct Plain {
    stored: Stored,
    mft: Arc<Mft>,
    files: [Arc<dyn ReadAt>; 1],
}

impl Plain {
    /// That of `stored`.
    pub fn new(stored: Stored, mft: Arc<Mft>) -> Self {
        let device: Arc<dyn ReadAt> = Arc::<dyn blockdev::BlockDevice>::clone(&mft.clusters.device);
        Self { stored, mft, files: [device] }
    }

    fn piece(&self, at: u64) -> Result<Run> {
        let written = self.stored.initialized.saturating_sub(at);
        if written == 0 {
            return Ok(Run { len: self.stored.size.saturating_sub(at), place: Place::Zero });
        }
        let geometry = &self.mft.clusters.geometry;
        let (lcn, clusters) = self.stored.at(&self.mft, at >> geometry.cluster_shift)?;
        let within = at & (geometry.cluster() - 1);
        let len = (clusters.saturating_mul(geometry.cluster()) - within).min(written);
        Ok(Run { len, place: place(lcn.map(|lcn| geometry.byte_of(lcn) + within)) })
    }
}

/// What is at byte `offset` of the volume, or in a hole.
pub fn place(offset: Option<u64>) -> Place {
    offset.map_or(Place::Zero, |offset| Place::Stored { file: 0, offset })
}

impl Layer for Plain {
    fn size(&self) -> u64 {
        self.stored.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        joined(offset, limit, self.stored.size, |at| self.piece(at))
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }
}
