//! File data at logical addresses: with checksums, which are compared before anything is delivered, and without.
//!
//! There is a checksum a sector. They are looked up for some hundred sectors at once, and the bytes are checked in the
//! caller's memory while they are in the processor's cache.

use std::{collections::BTreeMap, sync::Arc};

use blockdev::{Error, Extent, ExtentKind, MappedRun, ReadAt, Result};

use super::{
    checksum::Checksum,
    key::{Key, kind, object},
    space::{Space, worse},
    tree::Tree,
};

/// Bytes that are read and checked at once: what readers ask for most, and half of a processor's second cache. A device
/// that checks blocks of its own reads those at both ends whole, so that little is dear.
const BATCH: usize = 512 << 10;

/// Checksums of data: by logical address of the first sector, one after the other.
pub type Sums = BTreeMap<u64, Arc<[u8]>>;

/// Data with checksums.
pub struct Checked {
    pub space: Arc<Space>,
    /// The checksum tree.
    pub sums: Result<Tree>,
    /// Checksums in the log, which count before those in the tree.
    pub logged: Sums,
    pub checksum: Checksum,
    /// Bytes of a sector.
    pub sector: usize,
}

impl Checked {
    /// Fills `part`, which are whole sectors, from the sector at `logical` on.
    fn sectors(&self, part: &mut [u8], mut logical: u64) -> Result<()> {
        self.space.read_any(part, logical)?;
        let mut rest = part;
        while !rest.is_empty() {
            let before = rest.len();
            rest = self.with_sums(logical, |sums| {
                let sums = sums.chunks_exact(self.checksum.size());
                let len = sums.len().saturating_mul(self.sector).min(rest.len());
                let (known, unknown) = rest.split_at_mut(len);
                for ((sector, sum), at) in
                    known.chunks_exact_mut(self.sector).zip(sums).zip((0_u64..).step_by(self.sector))
                {
                    if !self.checksum.matches(sector, sum) {
                        self.other_copy(sector, logical + at, sum)?;
                    }
                }
                Ok(unknown)
            })?;
            let done = before - rest.len();
            if done == 0 {
                return Err(no_sum(logical));
            }
            logical += done as u64;
        }
        Ok(())
    }

    /// Fills `sector` from whichever copy matches `sum`.
    fn other_copy(&self, sector: &mut [u8], logical: u64, sum: &[u8]) -> Result<()> {
        let mut failed = None;
        for way in 0..self.space.ways(logical)? {
            match self.space.read(sector, logical, way) {
                Ok(()) if self.checksum.matches(sector, sum) => return Ok(()),
                Ok(()) => {}
                Err(e) => failed = Some(worse(failed, e)),
            }
        }
        let what = format!("the data at logical address {logical} does not match its checksum, nor does any copy");
        Err(worse(failed, Error::damaged(what)))
    }

    /// Calls `use_them` with the checksums from the sector at `logical` on, as far as they are together.
    fn with_sums<T>(&self, logical: u64, use_them: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let from = |start: u64, sums: &[u8]| {
            let index = usize::try_from((logical - start) / self.sector as u64).unwrap_or(usize::MAX);
            let at = index.saturating_mul(self.checksum.size());
            (at < sums.len()).then_some(at)
        };
        if let Some((start, sums)) = self.logged.range(..=logical).next_back()
            && let Some(at) = from(*start, sums)
        {
            return use_them(sums.get(at..).unwrap_or_default());
        }
        let tree = self.sums.as_ref().map_err(|e| Error::new(e.kind(), e.to_string()))?;
        let item = tree.floor(Key::new(object::EXTENT_CSUM, kind::EXTENT_CSUM, logical))?;
        let item = item.filter(|item| item.key.is(object::EXTENT_CSUM, kind::EXTENT_CSUM));
        let item = item.ok_or_else(|| no_sum(logical))?;
        let at = from(item.key.offset, item.data()).ok_or_else(|| no_sum(logical))?;
        use_them(item.data().get(at..).unwrap_or_default())
    }
}

fn no_sum(logical: u64) -> Error {
    Error::damaged(format!("the data at logical address {logical} should have a checksum, and has none"))
}

impl ReadAt for Checked {
    fn size(&self) -> u64 {
        self.space.chunks().end()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = within(self.size(), buf, offset);
        let len = wanted.len();
        let (mut rest, mut at) = (wanted, offset);
        while !rest.is_empty() {
            let skip = (at % self.sector as u64) as usize;
            let n = if skip > 0 || rest.len() < self.sector {
                // A part of a sector: the whole of it has to be checked.
                let n = (self.sector - skip).min(rest.len());
                let mut whole = vec![0; self.sector];
                self.sectors(&mut whole, at - skip as u64)?;
                rest.iter_mut().zip(whole.iter().skip(skip)).for_each(|(to, byte)| *to = *byte);
                n
            } else {
                let n = rest.len().min(BATCH.max(self.sector)) / self.sector * self.sector;
                let (part, _) = rest.split_at_mut(n);
                self.sectors(part, at)?;
                n
            };
            at += n as u64;
            rest = rest.get_mut(n..).unwrap_or_default();
        }
        Ok(len)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok(extent(self.size(), offset))
    }

    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

/// Data without checksums.
pub struct Plain {
    pub space: Arc<Space>,
}

impl ReadAt for Plain {
    fn size(&self) -> u64 {
        self.space.chunks().end()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = within(self.size(), buf, offset);
        self.space.read_any(wanted, offset)?;
        Ok(wanted.len())
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok(extent(self.size(), offset))
    }

    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

/// What of `buf` at `offset` lies within `size`.
fn within(size: u64, buf: &mut [u8], offset: u64) -> &mut [u8] {
    let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
    let wanted = buf.len().min(left);
    buf.get_mut(..wanted).unwrap_or_default()
}

fn extent(size: u64, offset: u64) -> Option<Extent> {
    (offset < size).then_some(Extent { range: offset..size, kind: ExtentKind::Data })
}
