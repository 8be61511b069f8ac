//! A disk as its readers see it: an image, its parents, and one merged map of both.
//!
//! Falling through sixty deltas at each read would cost sixty lookups. The places of a *window* of the disk are
//! therefore worked out once, over all layers, and kept: a read costs the same for one layer and for sixty. Windows
//! and unpacked units are caches, bounded in bytes.

use std::{
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::{Weighter, sync::Cache};

use super::layer::{Layer, Place, Run};
use crate::{
    BlockDevice, BlockSizes, Error, Extent, ExtentKind, MappedRun, ReadAt, Result,
    origin::{Origin, Source},
};

/// Bytes of the disk whose places are worked out at once.
const WINDOW: u64 = 32 << 20;

/// Bound of the kept windows, in bytes.
const WINDOWS_MAX: u64 = 16 << 20;

/// Bound of the kept unpacked units, in bytes.
const UNPACKED_MAX: u64 = 16 << 20;

// The cache splits its bytes among shards of at least 32 expected entries, and never keeps an entry that is larger than
// its shard. So these stay small: a window can have 3 MiB (clusters of 512 bytes) and gets 8, a unit 2 MiB and gets 16.
const WINDOWS_EXPECTED: usize = 64;
const UNPACKED_EXPECTED: usize = 32;

/// How far an extent is followed, in bytes: beyond, a caller that wants more asks again.
const EXTENT_MAX: u64 = 1 << 30;

/// An image and its parents as one disk.
pub struct Disk {
    /// The topmost first.
    layers: Vec<Arc<dyn Layer>>,
    sizes: BlockSizes,
    size: u64,
    /// Made when it is first needed: of many disks (the files of a filesystem) most never need one.
    windows: OnceLock<Cache<u64, Arc<Window>, ByBytes>>,
    units: Arc<Units>,
    /// Which units are this disk's.
    owner: u64,
}

/// Unpacked units of any number of disks, kept in memory that is bounded for all of them together.
#[derive(Default)]
pub struct Units {
    /// By owner, layer and unit.
    cache: OnceLock<UnitCache>,
    owners: AtomicU64,
}

type UnitCache = Cache<(u64, u32, u64), Arc<[u8]>, ByBytes>;

impl Units {
    fn cache(&self) -> &UnitCache {
        self.cache.get_or_init(|| Cache::with_weighter(UNPACKED_EXPECTED, UNPACKED_MAX, ByBytes))
    }
}

/// A run and the layer that has it.
#[derive(Debug, Clone, Copy)]
struct Found {
    len: u64,
    layer: u32,
    place: Place,
}

/// The places of [`WINDOW`] bytes: where each run starts, by ascending offset.
struct Window {
    end: u64,
    runs: Vec<(u64, u32, Place)>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<u64, Arc<Window>> for ByBytes {
    fn weight(&self, _: &u64, window: &Arc<Window>) -> u64 {
        (window.runs.capacity() * size_of::<(u64, u32, Place)>()) as u64 + 128
    }
}

impl Weighter<(u64, u32, u64), Arc<[u8]>> for ByBytes {
    fn weight(&self, _: &(u64, u32, u64), unit: &Arc<[u8]>) -> u64 {
        unit.len() as u64 + 128
    }
}

impl Disk {
    /// The disk of `layers`, the topmost first; the topmost says its size.
    ///
    /// # Errors
    ///
    /// `Invalid` when there are no layers.
    pub fn new(layers: Vec<Arc<dyn Layer>>, sizes: BlockSizes) -> Result<Self> {
        Self::sharing(layers, sizes, Arc::default())
    }

    /// The same, whose unpacked units are kept among those of other disks in `units`.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn sharing(layers: Vec<Arc<dyn Layer>>, sizes: BlockSizes, units: Arc<Units>) -> Result<Self> {
        let size = layers.first().ok_or_else(|| Error::invalid("a disk of no layers"))?.size();
        let owner = units.owners.fetch_add(1, Ordering::Relaxed);
        Ok(Self { layers, sizes, size, windows: OnceLock::new(), units, owner })
    }

    /// How many layers it has.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// From `offset` on: how many bytes (at most `limit`, which is not 0) are in one layer, and in which, 0 being the
    /// topmost; `None` where no layer has them. This is what tells changed blocks.
    ///
    /// # Errors
    ///
    /// When a table cannot be read.
    pub fn layer_at(&self, offset: u64, limit: u64) -> Result<(u64, Option<u32>)> {
        let found = self.find(offset, limit)?;
        Ok((found.len.min(limit), (found.place != Place::Absent).then_some(found.layer)))
    }

    /// The run at `offset`, which is below the size; its place is `Absent` only where no layer has it.
    fn find(&self, offset: u64, limit: u64) -> Result<Found> {
        if let [only] = self.layers.as_slice() {
            let run = checked(only.run_at(offset, limit)?, offset, self.size)?;
            return Ok(Found { len: run.len, layer: 0, place: run.place });
        }
        let number = offset / WINDOW;
        let windows = self.windows.get_or_init(|| Cache::with_weighter(WINDOWS_EXPECTED, WINDOWS_MAX, ByBytes));
        let window = windows.get_or_insert_with(&number, || self.window(number).map(Arc::new))?;
        let next = window.runs.partition_point(|(start, ..)| *start <= offset);
        let (start, layer, place) = *next.checked_sub(1).and_then(|i| window.runs.get(i)).ok_or_else(unmapped)?;
        let end = window.runs.get(next).map_or(window.end, |(start, ..)| *start);
        Ok(Found { len: end - offset, layer, place: place.advanced(offset - start) })
    }

    /// Work out where the bytes of window `number` are.
    fn window(&self, number: u64) -> Result<Window> {
        let start = number * WINDOW;
        let end = start.saturating_add(WINDOW).min(self.size);
        let mut runs = Vec::new();
        // What no layer so far has had.
        let mut open: Vec<_> = std::iter::once(start..end).collect();
        for (number, layer) in (0_u32..).zip(&self.layers) {
            let mut still_open = Vec::new();
            for gap in open {
                let mut at = gap.start;
                while at < gap.end {
                    let run = if at < layer.size() {
                        checked(layer.run_at(at, gap.end - at)?, at, layer.size())?
                    } else {
                        // A disk that has grown since: the new part was zeros.
                        Run { len: gap.end - at, place: Place::Zero }
                    };
                    let run_end = at.saturating_add(run.len).min(gap.end);
                    if run.place == Place::Absent {
                        push_open(&mut still_open, at..run_end);
                    } else {
                        runs.push((at, number, run.place));
                    }
                    at = run_end;
                }
            }
            open = still_open;
        }
        runs.extend(open.into_iter().map(|gap| (gap.start, 0, Place::Absent)));
        runs.sort_unstable_by_key(|(start, ..)| *start);
        runs.dedup_by(|next, last| {
            let (start, layer, place) = *last;
            next.1 == layer && place.advanced(next.0 - start) == next.2 && !matches!(place, Place::Packed { .. })
        });
        runs.shrink_to_fit();
        Ok(Window { end, runs })
    }

    fn layer(&self, number: u32) -> Result<&Arc<dyn Layer>> {
        self.layers.get(number as usize).ok_or_else(unmapped)
    }

    fn file(&self, layer: u32, file: u32) -> Result<&Arc<dyn ReadAt>> {
        self.layer(layer)?.files().get(file as usize).ok_or_else(unmapped)
    }

    fn unit(&self, number: u32, unit: u64) -> Result<Arc<[u8]>> {
        let layer = self.layer(number)?;
        self.units.cache().get_or_insert_with(&(self.owner, number, unit), || {
            let mut out = Vec::new();
            layer.unpack(unit, &mut out)?;
            Ok(out.into())
        })
    }

    fn read_run(&self, found: &Found, dest: &mut [u8], offset: u64) -> Result<()> {
        match found.place {
            Place::Zero | Place::Absent => dest.fill(0),
            Place::Stored { file, offset: at } => {
                let n = self.file(found.layer, file)?.read_at(dest, at)?;
                if n < dest.len() {
                    return Err(Error::damaged(format!(
                        "bytes {offset}..{} of the disk are at byte {at} of an image file that ends before: it was cut off",
                        offset + dest.len() as u64
                    )));
                }
            }
            Place::Packed { unit, skip } => {
                let unpacked = self.unit(found.layer, unit)?;
                let start = skip as usize;
                let bytes = unpacked.get(start..start.saturating_add(dest.len()));
                let bytes = bytes.ok_or_else(|| {
                    Error::damaged(format!("byte {offset} of the disk lies behind its cluster's end"))
                })?;
                dest.copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    /// The extent at `offset`, not joined with its neighbours.
    fn single_extent(&self, offset: u64, limit: u64) -> Result<Extent> {
        let found = self.find(offset, limit)?;
        let end = offset.saturating_add(found.len);
        let (kind, end) = match found.place {
            Place::Zero | Place::Absent => (ExtentKind::Hole, end),
            Place::Packed { .. } => (ExtentKind::Data, end),
            // The file may have holes where the image says data.
            Place::Stored { file, offset: at } => match self.file(found.layer, file)?.extent_at(at)? {
                Some(below) => (below.kind, end.min(offset.saturating_add(below.range.end.saturating_sub(at)))),
                None => (ExtentKind::Data, end),
            },
        };
        Ok(Extent { range: offset..end, kind })
    }
}

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let (mut rest, mut at) = (buf.get_mut(..wanted).unwrap_or_default(), offset);
        while !rest.is_empty() {
            let found = self.find(at, rest.len() as u64)?;
            let n = usize::try_from(found.len).unwrap_or(usize::MAX).min(rest.len());
            let (dest, tail) = rest.split_at_mut(n);
            self.read_run(&found, dest, at)?;
            at += n as u64;
            rest = tail;
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        let limit = EXTENT_MAX.min(self.size - offset);
        let mut extent = self.single_extent(offset, limit)?;
        while extent.range.end - offset < limit {
            let next = self.single_extent(extent.range.end, offset + limit - extent.range.end)?;
            if next.kind != extent.kind {
                break;
            }
            extent.range.end = next.range.end;
        }
        Ok(Some(extent))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        if offset >= self.size || len == 0 {
            return None;
        }
        let found = self.find(offset, len).ok()?;
        let Place::Stored { file, offset: at } = found.place else { return None };
        self.file(found.layer, file).ok()?.map(at, len.min(found.len))
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        let found = self.find(offset, limit)?;
        let limit = limit.min(found.len);
        match found.place {
            Place::Zero | Place::Absent => Ok(Origin { len: limit, source: Source::Zeros }),
            Place::Stored { file, offset: at } => {
                Ok(self.file(found.layer, file)?.origin_at(at, limit)?.limited(limit))
            }
            Place::Packed { unit, skip } => {
                let Some((file, at)) = self.layer(found.layer)?.unit_at(unit) else {
                    return Ok(Origin::unknown(limit));
                };
                let source = match self.file(found.layer, file)?.origin_at(at, 1)?.source {
                    Source::Stored { file, offset } => Source::of_unpacked(file, offset, skip.into()),
                    Source::Zeros | Source::Unknown => Source::Unknown,
                };
                Ok(Origin { len: limit, source })
            }
        }
    }
}

impl BlockDevice for Disk {
    fn block_sizes(&self) -> BlockSizes {
        self.sizes
    }
}

/// What a layer answered, made to be what it must be.
fn checked(run: Run, offset: u64, size: u64) -> Result<Run> {
    let len = run.len.min(size.saturating_sub(offset));
    if len == 0 { Err(unmapped()) } else { Ok(Run { len, place: run.place }) }
}

/// `gap` belongs to no layer so far; joined with the one before where they touch.
fn push_open(open: &mut Vec<Range<u64>>, gap: Range<u64>) {
    match open.last_mut() {
        Some(last) if last.end == gap.start => last.end = gap.end,
        _ => open.push(gap),
    }
}

fn unmapped() -> Error {
    Error::damaged("the image maps a part of the disk to nowhere")
}
