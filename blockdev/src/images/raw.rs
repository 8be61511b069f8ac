//! Raw images: the file is the disk.

use std::sync::Arc;

use super::{
    Format, Info, Opened,
    layer::{Layer, Place, Run},
};
use crate::{ReadAt, Result};

/// A raw image as a layer, so that it can be the base of a chain or an extent of a VMDK.
pub struct Raw {
    size: u64,
    files: [Arc<dyn ReadAt>; 1],
}

impl Raw {
    /// The whole of `file`.
    #[must_use]
    pub fn new(file: Arc<dyn ReadAt>) -> Self {
        Self { size: file.size(), files: [file] }
    }
}

impl Layer for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, _limit: u64) -> Result<Run> {
        Ok(Run { len: self.size.saturating_sub(offset), place: Place::Stored { file: 0, offset } })
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }
}

/// Open a raw image.
#[must_use]
pub fn open(file: Arc<dyn ReadAt>) -> Opened {
    let info = Info::new(Format::Raw, "raw", file.size());
    Opened { layer: Arc::new(Raw::new(file)), info }
}
