//! The slots of a directory: 32 bytes each, in whatever clusters.

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{Error, Result};

use super::clusters::{Chain, Clusters};
use crate::blocks::Blocks;

/// Bytes of a slot.
pub const SLOT: usize = 32;

/// The volume is read in pieces of so many bytes, aligned to that.
const PIECE: u64 = 16 << 10;

/// Bound of the pieces that are kept, in bytes.
const PIECES_MAX: u64 = 8 << 20;

/// Where the slots of a directory are.
#[derive(Debug, Clone)]
pub enum Region {
    /// Between the tables and the clusters: the root of FAT12 and FAT16.
    Fixed {
        /// Its first byte.
        start: u64,
        /// Its bytes.
        len: u64,
    },
    /// In clusters.
    Chain(Arc<Chain>),
}

/// One slot.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    /// Which one of its directory it is.
    pub index: u32,
    /// The byte of the volume at which it is.
    pub place: u64,
    /// It.
    pub bytes: &'a [u8; SLOT],
}

/// The slots of a volume's directories.
pub struct Slots {
    clusters: Arc<Clusters>,
    pieces: Blocks,
}

impl Slots {
    /// Those of a volume with these `clusters`.
    pub fn new(clusters: Arc<Clusters>) -> Self {
        let device = Arc::clone(clusters.device());
        Self { clusters, pieces: Blocks::new(device, PIECES_MAX) }
    }

    /// Calls `visit` for each slot of `region` from the `from`-th on, until it breaks.
    ///
    /// # Errors
    ///
    /// When a slot cannot be read, and what `visit` says. Those before were visited.
    pub fn visit(
        &self,
        region: &Region,
        from: u32,
        visit: &mut dyn FnMut(Slot<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut index = from;
        while let Some((mut place, end)) = self.run_at(region, u64::from(index) * SLOT as u64)? {
            while place < end {
                let (piece, skip) = self.piece(place)?;
                let here = piece.get(skip..).unwrap_or_default();
                let here = here.get(..usize::try_from(end - place).unwrap_or(usize::MAX)).unwrap_or(here);
                let (slots, _) = here.as_chunks::<SLOT>();
                if slots.is_empty() {
                    return Err(behind_the_end(place));
                }
                for bytes in slots {
                    if visit(Slot { index, place, bytes })?.is_break() {
                        return Ok(());
                    }
                    place += SLOT as u64;
                    index = index.checked_add(1).ok_or_else(|| Error::damaged("a directory of too many entries"))?;
                }
            }
        }
        match region {
            Region::Chain(chain) => chain.damage().map_or(Ok(()), Err),
            Region::Fixed { .. } => Ok(()),
        }
    }

    /// The slot at byte `place` of the volume.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn at(&self, place: u64) -> Result<[u8; SLOT]> {
        let (piece, skip) = self.piece(place)?;
        let slot = piece.get(skip..).and_then(|rest| rest.first_chunk::<SLOT>());
        slot.copied().ok_or_else(|| behind_the_end(place))
    }

    /// Where byte `offset` of `region` is on the volume, and where what lies together with it ends; `None` behind its
    /// end.
    fn run_at(&self, region: &Region, offset: u64) -> Result<Option<(u64, u64)>> {
        match region {
            Region::Fixed { start, len } => {
                Ok((offset < *len).then(|| (start.saturating_add(offset), start.saturating_add(*len))))
            }
            Region::Chain(chain) => {
                let heap = self.clusters.heap();
                let cluster = u64::from(heap.size);
                let index = u32::try_from(offset / cluster).ok().filter(|index| *index < chain.len());
                let Some(index) = index else { return Ok(None) };
                let run = self.clusters.run_at(chain, index, None)?;
                let place = heap.place(run.cluster).ok_or_else(|| Error::damaged("a cluster that does not exist"))?;
                let end = place.saturating_add(u64::from(run.len) * cluster);
                Ok(Some((place.saturating_add(offset % cluster), end)))
            }
        }
    }

    /// The piece that byte `place` of the volume is in, and how far in it.
    fn piece(&self, place: u64) -> Result<(Arc<[u8]>, usize)> {
        let (start, skip) = (place - place % PIECE, place % PIECE);
        let len = self.clusters.device().size().saturating_sub(start).min(PIECE);
        if len <= skip {
            return Err(behind_the_end(place));
        }
        Ok((self.pieces.get(start, len as usize, |_| Ok(()))?, skip as usize))
    }
}

fn behind_the_end(place: u64) -> Error {
    Error::damaged(format!("a directory at byte {place} lies behind the end of the volume, which was cut off"))
}
