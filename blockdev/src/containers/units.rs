//! The stored units of a disk, one after another: the part of a container that is data.

use std::sync::Arc;

use super::{allocation::Allocation, sections::readable};
use crate::{BlockDevice, Error, Extent, ExtentKind, MappedRun, ReadAt, Result};

/// The disk behind a container, as if it went on with zeros for ever.
#[derive(Clone)]
pub struct Source(Arc<dyn BlockDevice>);

impl Source {
    /// The disk.
    pub const fn new(disk: Arc<dyn BlockDevice>) -> Self {
        Self(disk)
    }

    /// Fill `buf`, the part behind the end with zeros.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (stored, behind) = buf.split_at_mut(readable(buf, offset, self.0.size()));
        behind.fill(0);
        if !stored.is_empty() && self.0.read_at(stored, offset)? < stored.len() {
            return Err(Error::damaged(format!("the disk gave fewer bytes than it has, behind byte {offset}")));
        }
        Ok(())
    }

    /// What is stored at `offset`, from there on, of the next `len` bytes: the length and the kind.
    pub fn extent(&self, offset: u64, len: u64) -> Result<(u64, ExtentKind)> {
        Ok(match self.0.extent_at(offset)? {
            Some(extent) => (len.min(extent.range.end.saturating_sub(offset).max(1)), extent.kind),
            None => (len, ExtentKind::Hole),
        })
    }
}

/// The disk itself as a part of a file.
impl ReadAt for Source {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = readable(buf, offset, self.size());
        self.read(buf.get_mut(..wanted).unwrap_or_default(), offset)?;
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.0.extent_at(offset)
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        self.0.map(offset, len)
    }
}

/// The stored units of a disk, each with the same bytes before it.
pub struct Units {
    source: Source,
    allocation: Arc<Allocation>,
    /// Bytes of a unit.
    unit: u64,
    prefix: Vec<u8>,
}

/// Where a byte of the part is.
enum At {
    /// So far into a prefix.
    Prefix(usize),
    /// At this byte of the disk, followed by so many that follow it in both.
    Disk(u64, u64),
}

impl Units {
    /// The units of `unit` bytes that are stored according to `allocation`, each behind a `prefix`.
    pub const fn new(source: Source, allocation: Arc<Allocation>, unit: u64, prefix: Vec<u8>) -> Self {
        Self { source, allocation, unit, prefix }
    }

    /// Bytes of a unit and its prefix.
    const fn stride(&self) -> u64 {
        self.unit + self.prefix.len() as u64
    }

    /// Where the byte `offset` is, and all that follow.
    fn places(&self, offset: u64) -> impl Iterator<Item = At> + '_ {
        let prefix = self.prefix.len() as u64;
        let mut skip = offset % self.stride();
        let mut runs = self.allocation.stored_from(offset / self.stride());
        let mut run = 0..0;
        std::iter::from_fn(move || {
            if run.is_empty() {
                run = runs.next()?.0;
            }
            if skip < prefix {
                return Some(At::Prefix(std::mem::replace(&mut skip, prefix) as usize));
            }
            // Without a prefix a whole run lies together.
            let units = if prefix == 0 { run.end - run.start } else { 1 };
            let within = skip - prefix;
            let start = run.start.saturating_mul(self.unit);
            run.start += units;
            skip = 0;
            Some(At::Disk(start.saturating_add(within), units.saturating_mul(self.unit) - within))
        })
    }

    fn place(&self, offset: u64) -> Option<At> {
        self.places(offset).next()
    }
}

impl ReadAt for Units {
    fn size(&self) -> u64 {
        self.allocation.total().saturating_mul(self.stride())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = readable(buf, offset, self.size());
        let mut rest = buf.get_mut(..wanted).unwrap_or_default();
        let mut places = self.places(offset);
        while !rest.is_empty() {
            let place = places.next().ok_or_else(|| Error::damaged("the image file has more units than the disk"))?;
            let (dest, tail) = match place {
                At::Prefix(skip) => {
                    let bytes = self.prefix.get(skip..).unwrap_or_default();
                    let (dest, tail) = rest.split_at_mut(bytes.len().min(rest.len()));
                    dest.copy_from_slice(bytes.get(..dest.len()).unwrap_or_default());
                    (dest, tail)
                }
                At::Disk(at, len) => {
                    let n = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
                    let (dest, tail) = rest.split_at_mut(n);
                    self.source.read(dest, at)?;
                    (dest, tail)
                }
            };
            debug_assert!(!dest.is_empty(), "a place of no bytes");
            rest = tail;
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let Some(place) = self.place(offset) else { return Ok(None) };
        let (len, kind) = match place {
            At::Prefix(skip) => ((self.prefix.len() - skip) as u64, ExtentKind::Data),
            At::Disk(at, len) => self.source.extent(at, len)?,
        };
        Ok(Some(Extent { range: offset..offset + len, kind }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        match self.place(offset)? {
            At::Prefix(_) => None,
            At::Disk(at, run) => self.source.map(at, len.min(run)),
        }
    }
}
