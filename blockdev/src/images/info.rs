//! What an image file says about itself.

use std::sync::Arc;

use super::{detect::Format, layer::Layer};
use crate::BlockSizes;

/// One image file, opened by itself.
pub struct Opened {
    /// Its map.
    pub layer: Arc<dyn Layer>,
    /// What it says about itself.
    pub info: Info,
}

/// One image file of a disk.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name in its folder or backup.
    pub name: String,
    /// Its length in bytes.
    pub file_size: u64,
    /// What it says about itself.
    pub info: Info,
}

/// What an image file says about itself.
#[derive(Debug, Clone)]
pub struct Info {
    /// Its format.
    pub format: Format,
    /// Which kind of that format, in the format's own words: `monolithicSparse`, `dynamic`, `v3`.
    pub variant: String,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// The unit of allocation in bytes; `None` where everything is allocated.
    pub cluster_size: Option<u64>,
    /// The disk's block sizes.
    pub block_sizes: BlockSizes,
    /// What stands for exactly this content, for those who build on it: a CID, a UUID.
    pub identity: Option<String>,
    /// The image it was made on.
    pub parent: Option<Parent>,
    /// Other files that hold parts of it (extents, a data file), as it names them.
    pub parts: Vec<String>,
    /// Internal snapshots, as listed.
    pub snapshots: Vec<Snapshot>,
    /// Bitmaps of changed blocks, as listed.
    pub bitmaps: Vec<Bitmap>,
    /// What else an operator should know: not closed properly, encrypted, log replayed.
    pub notes: Vec<String>,
}

impl Info {
    /// Of an image of `format` and `variant` with a disk of `virtual_size` bytes; everything else as in the simplest
    /// image.
    #[must_use]
    pub fn new(format: Format, variant: impl Into<String>, virtual_size: u64) -> Self {
        Self {
            format,
            variant: variant.into(),
            virtual_size,
            cluster_size: None,
            block_sizes: BlockSizes::CLASSIC,
            identity: None,
            parent: None,
            parts: Vec::new(),
            snapshots: Vec::new(),
            bitmaps: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// The image that another was made on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// What it may be called, the likeliest first; paths as the image tells them, of which only the last part counts.
    pub names: Vec<String>,
    /// Its format where the child tells it: its own bytes are then not asked, for a guest may have written them.
    pub format: Option<Format>,
    /// The [`Info::identity`] it must have.
    pub identity: Option<String>,
}

/// A snapshot inside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub time: u64,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
}

/// A bitmap of changed blocks inside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes that one bit stands for.
    pub granularity: u64,
    /// It was not closed properly and tells nothing.
    pub in_use: bool,
}
