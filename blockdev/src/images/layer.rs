//! One image file of a chain, whatever its format: where each run of guest bytes is.
//!
//! All formats come down to a map from guest offsets to places in files. A format module knows its headers and tables
//! and answers [`Layer::run_at`]; [`Disk`](super::Disk) does all reading, unpacking, caching and falling through to
//! parents, once for all formats.

use std::sync::Arc;

use crate::{Error, ReadAt, Result};

/// Where a run of bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// As they are, in file number `file` of [`Layer::files`], from byte `offset` on.
    Stored {
        /// Index in [`Layer::files`].
        file: u32,
        /// Byte offset in that file.
        offset: u64,
    },
    /// Zeros, whatever a parent has there.
    Zero,
    /// Not in this layer: its parent has them. Without a parent they are zeros.
    Absent,
    /// In a unit that has to be unpacked (decompressed, decrypted).
    Packed {
        /// What [`Layer::unpack`] is to be given: stands for the unit, and for no other of this layer.
        unit: u64,
        /// Bytes of the unpacked unit before the run.
        skip: u32,
    },
}

impl Place {
    /// The place `by` bytes further on in the same run.
    #[must_use]
    pub const fn advanced(self, by: u64) -> Self {
        match self {
            Self::Stored { file, offset } => Self::Stored { file, offset: offset.saturating_add(by) },
            Self::Packed { unit, skip } => Self::Packed { unit, skip: skip.saturating_add(by as u32) },
            Self::Zero | Self::Absent => self,
        }
    }
}

/// Bytes that lie in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// Length in bytes, never 0.
    pub len: u64,
    /// Where they are.
    pub place: Place,
}

/// One image: a map from guest offsets to places.
///
/// Everything in an image is hostile: an implementation checks its tables as it walks them, allocates no more than its
/// bounded caches, and reports contradictions as [`Damaged`](crate::ErrorKind::Damaged) with file offset and remedy.
pub trait Layer: Send + Sync {
    /// Size of the disk in bytes.
    fn size(&self) -> u64;

    /// The run that begins at `offset`, which is below [`size`](Self::size). At most `limit` bytes are of interest
    /// (`limit` is not 0): an implementation need not look further, and may answer for fewer; it should join what
    /// lies together. The run may be longer than `limit`, and never goes past the size.
    ///
    /// # Errors
    ///
    /// When the tables that say it cannot be read or contradict themselves.
    fn run_at(&self, offset: u64, limit: u64) -> Result<Run>;

    /// The files that [`Place::Stored`] counts.
    fn files(&self) -> &[Arc<dyn ReadAt>];

    /// Where the unit `unit` of a [`Place::Packed`] begins, packed: a number of [`files`](Self::files) and a byte. Units
    /// that begin at the same place are the same. `None` where that is not known.
    fn unit_at(&self, unit: u64) -> Option<(u32, u64)> {
        let _ = unit;
        None
    }

    /// The whole unit `unit` of a [`Place::Packed`], as it was before packing, in `out`, which is empty. The length is
    /// bounded by the format (at most 2 MiB).
    ///
    /// # Errors
    ///
    /// When it cannot be read or does not unpack to what it should. A layer that packs nothing leaves it as it is here.
    fn unpack(&self, unit: u64, out: &mut Vec<u8>) -> Result<()> {
        let _ = out;
        Err(Error::damaged(format!("unit {unit} is asked for, where nothing is packed")))
    }
}

/// Pieces that [`joined`] joins at once: a bound for the time of one call, far above what one read needs.
const JOINED_MAX: usize = 1 << 16;

/// The run at `offset` of a disk of `size` bytes, which is above `offset`, made of the pieces that `piece` gives: those
/// that lie together are joined until `limit` bytes are reached.
///
/// # Errors
///
/// When the first piece cannot be told. A later one that cannot only ends the run: what is before it can be read.
pub fn joined(offset: u64, limit: u64, size: u64, mut piece: impl FnMut(u64) -> Result<Run>) -> Result<Run> {
    let mut run = piece(offset)?;
    for _ in 0..JOINED_MAX {
        let at = offset.saturating_add(run.len);
        if run.len >= limit || at >= size || matches!(run.place, Place::Packed { .. }) {
            break;
        }
        match piece(at) {
            Ok(next) if next.len > 0 && next.place == run.place.advanced(run.len) => {
                run.len = run.len.saturating_add(next.len);
            }
            _ => break,
        }
    }
    run.len = run.len.min(size.saturating_sub(offset));
    Ok(run)
}
