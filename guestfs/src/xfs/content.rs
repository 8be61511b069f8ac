//! The content of a regular file as a map to the device.

use std::sync::Arc;

use blockdev::{
    Error, ReadAt, Result,
    images::layer::{Layer, Place, Run, joined},
};

use super::{
    inode::Inode,
    map::{Map, Target},
    volume::Volume,
};
use crate::Kind;

/// The content of a file.
pub struct Content {
    volume: Arc<Volume>,
    size: u64,
    map: Map,
    files: [Arc<dyn ReadAt>; 1],
}

impl Content {
    /// That of `inode`.
    ///
    /// # Errors
    ///
    /// When it is not a regular file, or is on another device.
    pub fn new(volume: Arc<Volume>, inode: &Inode) -> Result<Self> {
        if inode.kind != Kind::File {
            return Err(Error::invalid(format!("inode {} is not a regular file", inode.number)));
        }
        if inode.realtime {
            return Err(Error::unsupported(format!(
                "inode {} has its content on a realtime device, which cannot be read",
                inode.number
            )));
        }
        let map = Map::new(inode.number, &inode.data)?;
        let files: [Arc<dyn ReadAt>; 1] = [Arc::clone(volume.device()) as _];
        Ok(Self { volume, size: inode.size, map, files })
    }

    fn piece(&self, offset: u64) -> Result<Run> {
        let log = self.volume.sb.block_log;
        let (block, skip) = (offset >> log, offset & (self.volume.sb.block_len() - 1));
        let mapping = self.map.at(&self.volume, block)?;
        // The last run of a sparse file has no end.
        let len = mapping.len.checked_mul(1 << log).map_or(u64::MAX, |len| len - skip);
        let place = match mapping.target {
            Target::Stored(start) => Place::Stored { file: 0, offset: start + skip },
            Target::Zero | Target::Hole => Place::Zero,
        };
        Ok(Run { len, place })
    }
}

impl Layer for Content {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        joined(offset, limit, self.size, |at| self.piece(at))
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }
}
