//! A file as sections, each of which knows its bytes, with zeros in between.

use crate::{Error, Extent, ExtentKind, MappedRun, ReadAt, Result};

/// A file that is laid out and not stored.
pub struct Sections {
    size: u64,
    /// Ascending, not overlapping, none empty.
    sections: Vec<Section>,
}

struct Section {
    start: u64,
    content: Box<dyn ReadAt>,
}

impl Sections {
    /// An empty file.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, sections: Vec::new() }
    }

    /// Put `content` at `start`, which is not before the end of what is there.
    ///
    /// # Errors
    ///
    /// When it would overlap, or go past 2^63.
    pub fn put(&mut self, start: u64, content: impl ReadAt + 'static) -> Result<()> {
        let end = start.checked_add(content.size()).filter(|end| *end <= i64::MAX as u64);
        let end = end.ok_or_else(|| Error::unsupported("the image file would be larger than a file can be"))?;
        if start < self.size {
            return Err(Error::invalid(format!("two parts of the image file would lie at byte {start}")));
        }
        if end > start {
            self.sections.push(Section { start, content: Box::new(content) });
        }
        self.size = end;
        Ok(())
    }

    /// Make the file end at `size`, with zeros, where it ends before.
    #[must_use]
    pub fn ending_at(mut self, size: u64) -> Self {
        self.size = self.size.max(size);
        self
    }

    /// The section that holds `offset`, with the offset in it, or else the bytes of zeros up to the next one.
    fn find(&self, offset: u64) -> std::result::Result<(&dyn ReadAt, u64), u64> {
        let next = self.sections.partition_point(|section| section.start <= offset);
        if let Some(section) = next.checked_sub(1).and_then(|index| self.sections.get(index)) {
            let within = offset - section.start;
            if within < section.content.size() {
                return Ok((section.content.as_ref(), within));
            }
        }
        Err(self.sections.get(next).map_or(self.size, |section| section.start).saturating_sub(offset))
    }
}

impl ReadAt for Sections {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = readable(buf, offset, self.size);
        let (mut rest, mut at) = (buf.get_mut(..wanted).unwrap_or_default(), offset);
        while !rest.is_empty() {
            let n = match self.find(at) {
                Ok((content, within)) => content.read_at(rest, within)?,
                Err(zeros) => {
                    let n = usize::try_from(zeros).unwrap_or(usize::MAX).min(rest.len());
                    rest.get_mut(..n).unwrap_or_default().fill(0);
                    n
                }
            };
            if n == 0 {
                return Err(Error::damaged(format!("byte {at} of the image file could not be worked out")));
            }
            at += n as u64;
            rest = rest.get_mut(n..).unwrap_or_default();
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        Ok(Some(match self.find(offset) {
            Err(zeros) => Extent { range: offset..offset + zeros, kind: ExtentKind::Hole },
            Ok((content, within)) => {
                let extent = content.extent_at(within)?.filter(|extent| extent.range.end > within);
                let extent = extent.ok_or_else(|| Error::damaged(format!("byte {offset} is in no extent")))?;
                let len = extent.range.end.min(content.size()) - within;
                Extent { range: offset..offset + len, kind: extent.kind }
            }
        }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        let (content, within) = self.find(offset).ok()?;
        content.map(within, len)
    }
}

/// How many bytes of `buf` can be filled from `offset` on of something of `size` bytes.
pub fn readable(buf: &[u8], offset: u64, size: u64) -> usize {
    buf.len().min(usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX))
}
