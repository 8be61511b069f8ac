//! What all sessions share: the volumes, the cache of blocks, and the integrity policy.

use std::sync::Arc;

use blockdev::{Error, ErrorKind, Result};

use super::map::VolumeIndex;
use crate::{block, volume::Volume};

/// When a block's checksum is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Integrity {
    /// Each time a byte of it is delivered.
    Always,
    /// The first time a byte of it is delivered.
    #[default]
    Once,
    /// Never: damaged bytes are delivered as they are.
    Never,
}

/// A whole block, decrypted, and verified if the policy says so.
#[derive(Debug)]
pub struct Block {
    /// Its header.
    pub header: block::Header,
    /// Its bytes from the header on.
    pub bytes: Box<[u8]>,
}

/// Which block: the session's number in the archive and the block's in the session.
type Key = (u32, u32);

#[derive(Clone)]
struct ByBytes;

impl quick_cache::Weighter<Key, Arc<Block>> for ByBytes {
    fn weight(&self, _: &Key, block: &Arc<Block>) -> u64 {
        block.bytes.len() as u64 + 128
    }
}

/// Decoded pieces of compressed or encrypted files, by file and place.
pub type Pieces = quick_cache::sync::Cache<(u64, u64), Arc<Vec<u8>>, PieceBytes>;

/// Weighs a piece by its length.
#[derive(Debug, Clone, Copy)]
pub struct PieceBytes;

impl quick_cache::Weighter<(u64, u64), Arc<Vec<u8>>> for PieceBytes {
    fn weight(&self, _: &(u64, u64), piece: &Arc<Vec<u8>>) -> u64 {
        piece.capacity() as u64 + 128
    }
}

/// The volumes of an archive and what is kept of their blocks.
pub struct Store {
    volumes: Vec<Arc<Volume>>,
    integrity: Integrity,
    blocks: quick_cache::sync::Cache<Key, Arc<Block>, ByBytes>,
    pieces: Pieces,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("volumes", &self.volumes.len()).field("integrity", &self.integrity).finish()
    }
}

impl Store {
    /// A store over `volumes` that keeps up to `cache_bytes` of blocks and decoded pieces.
    #[must_use]
    pub fn new(volumes: Vec<Arc<Volume>>, integrity: Integrity, cache_bytes: u64) -> Self {
        let half = cache_bytes / 2;
        let items = (half / 65_536).max(16) as usize;
        Self {
            volumes,
            integrity,
            blocks: quick_cache::sync::Cache::with_weighter(items, half, ByBytes),
            pieces: Pieces::with_weighter(items, half, PieceBytes),
        }
    }

    /// The volumes, in the order of their indices.
    #[must_use]
    pub fn volumes(&self) -> &[Arc<Volume>] {
        &self.volumes
    }

    /// A volume.
    ///
    /// # Errors
    ///
    /// `Missing` when there is none with this index.
    pub fn volume(&self, index: VolumeIndex) -> Result<&Arc<Volume>> {
        let volume = self.volumes.get(index.0 as usize);
        volume.ok_or_else(|| Error::new(ErrorKind::Missing, "a volume of this job is not at hand"))
    }

    /// The integrity policy.
    #[must_use]
    pub const fn integrity(&self) -> Integrity {
        self.integrity
    }

    /// The cache of decoded pieces.
    #[must_use]
    pub const fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    pub(super) fn cached(&self, key: Key) -> Option<Arc<Block>> {
        self.blocks.get(&key)
    }

    pub(super) fn keep(&self, key: Key, block: &Arc<Block>) {
        self.blocks.insert(key, Arc::clone(block));
    }
}
