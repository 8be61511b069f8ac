//! A container of a fixed layout around a disk that others write, too.
//!
//! A fixed VHDX is the disk, and in front of it headers, a log and tables that whoever opens the file writes for itself. The
//! disk's bytes go to the disk, where every door sees them; what is around them goes to an overlay of the datastore, the
//! frame. Both are durable when a flush returns.

use std::{ops::Range, sync::Arc};

use blockdev::{BlockDevice, BlockSizes, Error, Extent, MappedRun, ReadAt, Result, WriteAt, overlay::Overlay};

/// A disk and its frame.
pub struct Framed {
    disk: Arc<dyn WriteAt>,
    /// Where the disk is in the file.
    place: Range<u64>,
    /// Of the size of the file; what it has at the disk's place is not looked at.
    frame: Arc<Overlay>,
}

/// A part of a range of the file.
struct Part<'a> {
    range: Range<u64>,
    /// Who has it, and where it begins there.
    device: &'a dyn WriteAt,
    at: u64,
}

impl Framed {
    /// `disk` from the offset `at` on of a file that is otherwise `frame`.
    pub fn new(disk: Arc<dyn WriteAt>, at: u64, frame: Arc<Overlay>) -> Self {
        let place = at..at.saturating_add(disk.size()).min(frame.size());
        Self { disk, place, frame }
    }

    /// The first part of `range`, which is not empty.
    fn first(&self, range: Range<u64>) -> Part<'_> {
        let Range { start, end } = range;
        if self.place.contains(&start) {
            let at = start - self.place.start;
            return Part { range: start..end.min(self.place.end), device: self.disk.as_ref(), at };
        }
        let end = if start < self.place.start { end.min(self.place.start) } else { end };
        Part { range: start..end, device: self.frame.as_ref(), at: start }
    }

    /// Runs `act` on each part of `range`.
    fn each(&self, mut range: Range<u64>, mut act: impl FnMut(Part<'_>) -> Result<()>) -> Result<()> {
        if range.end > self.size() {
            return Err(Error::invalid(format!("the image file ends at byte {}", self.size())));
        }
        while range.start < range.end {
            let part = self.first(range.clone());
            range.start = part.range.end;
            act(part)?;
        }
        Ok(())
    }
}

impl Part<'_> {
    /// Where the part is in a buffer for what begins at `offset` of the file.
    fn in_buffer(&self, offset: u64) -> Range<usize> {
        let at = |n: u64| usize::try_from(n.saturating_sub(offset)).unwrap_or(usize::MAX);
        at(self.range.start)..at(self.range.end)
    }

    /// Where it is on its device.
    fn on_device(&self) -> Range<u64> {
        self.at..self.at.saturating_add(self.range.end - self.range.start)
    }
}

impl ReadAt for Framed {
    fn size(&self) -> u64 {
        self.frame.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let end = offset.saturating_add(buf.len() as u64).min(self.size());
        self.each(offset..end, |part| {
            let into = buf.get_mut(part.in_buffer(offset)).unwrap_or_default();
            match part.device.read_at(into, part.at)? {
                n if n == into.len() => Ok(()),
                _ => Err(Error::damaged(format!("a disk ends before byte {} of its image file", part.range.end))),
            }
        })?;
        Ok(usize::try_from(end.saturating_sub(offset)).unwrap_or(0))
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size() {
            return Ok(None);
        }
        let part = self.first(offset..self.size());
        let found = part.device.extent_at(part.at)?;
        Ok(found.map(|extent| {
            let end = offset.saturating_add(extent.range.end.saturating_sub(part.at));
            Extent { range: offset..end.min(part.range.end), kind: extent.kind }
        }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        let end = offset.checked_add(len).filter(|end| len > 0 && *end <= self.size())?;
        let Part { range, device, at } = self.first(offset..end);
        device.map(at, range.end - range.start)
    }
}

impl BlockDevice for Framed {
    fn block_sizes(&self) -> BlockSizes {
        self.disk.block_sizes()
    }
}

impl WriteAt for Framed {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        self.each(offset..end, |part| {
            part.device.write_at(buf.get(part.in_buffer(offset)).unwrap_or_default(), part.at)
        })
    }

    fn write_zeroes(&self, range: Range<u64>, keep: bool) -> Result<()> {
        self.each(range, |part| part.device.write_zeroes(part.on_device(), keep))
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.each(range, |part| part.device.discard(part.on_device()))
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()?;
        self.frame.flush()
    }
}
