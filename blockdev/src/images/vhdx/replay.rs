//! A file as it would be after the replay of its log.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{ids::MIB, log::SECTOR};
use crate::{Error, ErrorKind, Extent, ExtentKind, MappedRun, ReadAt, Result};

/// Bound of the patches of one log: far more than a log of 64 MiB has sectors.
const PATCHES_MAX: usize = 1 << 16;

/// What a patch puts in the place of what is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Zeros.
    Zeros,
    /// One sector, which is in the log.
    Logged {
        /// Where the log has it, as a byte offset in the file.
        at: u64,
        /// Its first bytes, in the place of which the log has a signature.
        leading: [u8; 8],
        /// Its last bytes.
        trailing: [u8; 4],
    },
}

/// Changes of a file: ranges of whole sectors that do not overlap.
#[derive(Default)]
pub struct Patches {
    /// By their first byte: the end, and what is there.
    ranges: BTreeMap<u64, (u64, Content)>,
    /// How long the file has to be at least.
    size: u64,
}

impl Patches {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The file has to have at least `size` bytes, in whole MiB.
    pub fn grow(&mut self, size: u64) {
        self.size = self.size.max(size.checked_next_multiple_of(MIB).unwrap_or(u64::MAX));
    }

    /// Put `content` at `range`, over what was put there before.
    ///
    /// # Errors
    ///
    /// `Limit` when there are too many.
    pub fn put(&mut self, range: Range<u64>, content: Content) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        if self.ranges.len() >= PATCHES_MAX {
            return Err(Error::new(ErrorKind::Limit, format!("the log has more than {PATCHES_MAX} changes")));
        }
        self.grow(range.end);
        if let Some((start, (end, before))) = self.up_to(range.start)
            && start < range.start
            && end > range.start
        {
            // Only zeros have more than a sector and can be cut: they are the same wherever they begin.
            self.ranges.insert(start, (range.start, before));
            if end > range.end {
                self.ranges.insert(range.end, (end, before));
            }
        }
        while let Some((start, (end, before))) = self.ranges.range(range.clone()).next().map(|(s, v)| (*s, *v)) {
            self.ranges.remove(&start);
            if end > range.end {
                self.ranges.insert(range.end, (end, before));
            }
        }
        self.ranges.insert(range.start, (range.end, content));
        Ok(())
    }

    /// The patch that begins at `offset` or is the last before.
    fn up_to(&self, offset: u64) -> Option<(u64, (u64, Content))> {
        self.ranges.range(..=offset).next_back().map(|(start, patch)| (*start, *patch))
    }

    /// What is at `offset` and up to where: a patch and its first byte, or nothing up to the next patch.
    fn at(&self, offset: u64) -> (u64, Option<(u64, Content)>) {
        match self.up_to(offset) {
            Some((start, (end, content))) if offset < end => (end, Some((start, content))),
            _ => (self.ranges.range(offset..).next().map_or(u64::MAX, |(start, _)| *start), None),
        }
    }
}

/// A file with patches.
pub struct Replayed {
    file: Arc<dyn ReadAt>,
    patches: Patches,
}

impl Replayed {
    /// `file` with `patches` laid over.
    pub fn new(file: Arc<dyn ReadAt>, patches: Patches) -> Self {
        Self { file, patches }
    }

    /// What the file itself has at `offset`; zeros behind its end.
    fn read_file(&self, dest: &mut [u8], offset: u64) -> Result<()> {
        let n = self.file.read_at(dest, offset)?;
        if let Some(rest) = dest.get_mut(n..) {
            rest.fill(0);
        }
        Ok(())
    }
}

impl ReadAt for Replayed {
    fn size(&self) -> u64 {
        self.file.size().max(self.patches.size)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let (mut rest, mut at) = (buf.get_mut(..wanted).unwrap_or_default(), offset);
        while !rest.is_empty() {
            let (end, patch) = self.patches.at(at);
            let n = usize::try_from(end - at).unwrap_or(usize::MAX).min(rest.len());
            let (dest, tail) = rest.split_at_mut(n);
            match patch {
                None => self.read_file(dest, at)?,
                Some((_, Content::Zeros)) => dest.fill(0),
                Some((start, Content::Logged { at: logged, leading, trailing })) => {
                    let mut sector = [0; SECTOR as usize];
                    self.read_file(&mut sector, logged)?;
                    sector[..leading.len()].copy_from_slice(&leading);
                    sector[SECTOR as usize - trailing.len()..].copy_from_slice(&trailing);
                    let from = (at - start) as usize;
                    dest.copy_from_slice(sector.get(from..from.saturating_add(n)).unwrap_or_default());
                }
            }
            at += n as u64;
            rest = tail;
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size() {
            return Ok(None);
        }
        let (end, patch) = self.patches.at(offset);
        let end = end.min(self.size());
        Ok(Some(match patch {
            Some((_, Content::Zeros)) => Extent { range: offset..end, kind: ExtentKind::Hole },
            Some((_, Content::Logged { .. })) => Extent { range: offset..end, kind: ExtentKind::Data },
            None => match self.file.extent_at(offset)? {
                Some(extent) => Extent { range: offset..extent.range.end.min(end), kind: extent.kind },
                None => Extent { range: offset..end, kind: ExtentKind::Hole },
            },
        }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        match self.patches.at(offset) {
            (end, None) => self.file.map(offset, len.min(end - offset)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Patches in random order and overlapping give what writing them one after the other gives.
    #[test]
    fn later_patches_lie_over_earlier_ones() {
        const SECTORS: u64 = 64;
        let logged = |n: u8| vec![n; SECTOR as usize];
        // The log lies behind the sectors that are patched.
        let file: Vec<u8> = (0..SECTORS as u8).chain(100..200).flat_map(logged).collect();
        let mut expected = file.clone();
        let mut patches = Patches::default();
        let mut state = 1_u64;
        let mut below = |end: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % end
        };
        for n in 0..100 {
            let start = below(SECTORS);
            let len = if n % 2 == 0 { 1 } else { below(SECTORS - start) };
            let range = start * SECTOR..(start + len) * SECTOR;
            let bytes = &mut expected[range.start as usize..range.end as usize];
            if n % 2 == 0 {
                bytes.fill(100 + n as u8);
                bytes[..8].fill(1);
                bytes[4092..].fill(2);
                let at = (SECTORS + n) * SECTOR;
                patches.put(range, Content::Logged { at, leading: [1; 8], trailing: [2; 4] }).unwrap();
            } else {
                bytes.fill(0);
                patches.put(range, Content::Zeros).unwrap();
            }
        }
        let size = file.len();
        patches.grow(size as u64 + 1);
        expected.resize(size.next_multiple_of(MIB as usize), 0);
        let replayed = Replayed::new(Arc::new(file), patches);
        let mut all = vec![0xff; expected.len() + 10];
        assert_eq!(replayed.read_at(&mut all, 0).unwrap(), expected.len());
        assert!(all[..expected.len()] == expected);
        for _ in 0..1000 {
            let at = below(expected.len() as u64) as usize;
            let len = below(20_000).min((expected.len() - at) as u64) as usize;
            let mut some = vec![0xff; len];
            assert_eq!(replayed.read_at(&mut some, at as u64).unwrap(), len);
            assert!(some == expected[at..at + len]);
        }
        let mut at = 0;
        while let Some(extent) = replayed.extent_at(at).unwrap() {
            let bytes = &expected[at as usize..extent.range.end as usize];
            assert!(extent.kind == ExtentKind::Data || bytes.iter().all(|b| *b == 0));
            at = extent.range.end;
        }
        assert_eq!(at, expected.len() as u64);
    }
}
