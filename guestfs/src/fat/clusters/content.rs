//! The content of a file: a chain of clusters up to its length, zeros behind what was written of it.

use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{
    Error, ReadAt, Result,
    images::layer::{Layer, Place, Run as ByteRun},
};

use super::{Chain, Clusters, Run};

/// The content of a file.
pub struct Content {
    clusters: Arc<Clusters>,
    chain: Option<Arc<Chain>>,
    size: u64,
    /// Bytes that were written; behind them come zeros.
    written: u64,
    /// What was found last: files are read from the front to the back.
    last: Mutex<Option<Run>>,
    files: [Arc<dyn ReadAt>; 1],
}

impl Content {
    /// The first `size` bytes of `chain` (`None`: no clusters), of which `written` were written.
    pub fn new(clusters: Arc<Clusters>, chain: Option<Arc<Chain>>, size: u64, written: u64) -> Self {
        let device: Arc<dyn ReadAt> = Arc::clone(clusters.device()) as _;
        Self { clusters, chain, size, written: written.min(size), last: Mutex::default(), files: [device] }
    }
}

impl Layer for Content {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<ByteRun> {
        let Some(chain) = self.chain.as_ref().filter(|_| offset < self.written) else {
            return Ok(ByteRun { len: self.size.saturating_sub(offset), place: Place::Zero });
        };
        let _ = limit; // A run of clusters is as long as it can be already.
        let heap = self.clusters.heap();
        let cluster = u64::from(heap.size);
        let index = u32::try_from(offset / cluster).map_err(|_| Error::damaged("a content of too many clusters"))?;
        let hint = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let run = self.clusters.run_at(chain, index, hint)?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(run);
        let skip = offset % cluster;
        let place = heap.place(run.cluster).ok_or_else(|| Error::damaged("a cluster that does not exist"))?;
        let len = (u64::from(run.len) * cluster - skip).min(self.written - offset);
        Ok(ByteRun { len, place: Place::Stored { file: 0, offset: place.saturating_add(skip) } })
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }
}
