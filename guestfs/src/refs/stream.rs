//! The content of files: in the attribute itself, or in extents.

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{
    Error, ErrorKind, ReadAt, Result,
    fields::{le16, le32, le64, slice},
    images::layer::{Layer, Place, Run, joined},
};

use super::{
    attribute::{Attribute, kind},
    node::Span,
    page::{Addressing, Pages},
    tree::{Root, Tree},
};
use crate::inline::Inline;

/// Extents of one file that are kept: thirty bytes each.
const EXTENTS_MAX: usize = 1 << 20;

/// The version of a stream that is live.
const LIVE: u64 = 0x1000;

/// Where the content of a stream is.
#[derive(Debug, Clone)]
pub enum Stream {
    /// Nowhere.
    Empty,
    /// In these bytes.
    Inline(Vec<u8>),
    /// In the extents of this tree.
    Extents(Span, Sizes),
}

/// The sizes of a stream with extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes that are allocated.
    pub allocated: u64,
    /// Length in bytes.
    pub size: u64,
    /// How much of it was written.
    pub valid: u64,
}

impl Stream {
    /// The content proper of a file with these attributes.
    ///
    /// # Errors
    ///
    /// When the attribute contradicts itself.
    pub fn of(attributes: &[Attribute]) -> Result<Self> {
        let of_data = || attributes.iter().filter(|a| a.kind == kind::DATA);
        // One attribute has the sizes and what fits in it; others have the extents of each version of the stream.
        for one in of_data().filter(|a| a.version.is_none()) {
            if let Some(stream) = Self::single(&one.value)? {
                return Ok(stream);
            }
        }
        match of_data().find(|a| a.version == Some(LIVE)) {
            Some(live) => Self::extents(&live.value),
            None if of_data().next().is_none() => Ok(Self::Empty),
            None => Err(Error::unsupported("the content of the file of ReFS is in none of the places that are known")),
        }
    }

    /// The named streams of a file with these attributes: name, length, attribute.
    pub fn named(attributes: &[Attribute]) -> impl Iterator<Item = (&Attribute, u64)> {
        /// A snapshot of the content, by the flags of the stream's summary.
        const SNAPSHOT: u16 = 2;
        let named = attributes.iter().filter(|a| a.kind == kind::NAMED && !a.name.is_empty());
        named.filter_map(|attribute| {
            let value = attribute.value.get();
            match Summary::parse(value) {
                Some(summary) if summary.flags == SNAPSHOT => None,
                Some(summary) => Some((attribute, summary.size)),
                None => match Self::single(&attribute.value).ok()? {
                    Some(stream) => Some((attribute, stream.size())),
                    None => None,
                },
            }
        })
    }

    /// The content of the named stream `name`.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none.
    pub fn of_name(attributes: &[Attribute], name: &[u8]) -> Result<Self> {
        let found = Self::named(attributes).find(|(attribute, _)| attribute.name == name);
        let (attribute, size) =
            found.ok_or_else(|| Error::not_found(format!("there is no stream {:?}", String::from_utf8_lossy(name))))?;
        if let Some(stream) = Self::single(&attribute.value)? {
            return Ok(stream);
        }
        // Its extents are in an attribute that has nothing of it but the size.
        let extents = attributes.iter().filter(|a| a.kind == kind::EXTENTS).map(|a| Self::extents(&a.value));
        let mut of_size = extents.filter_map(Result::ok).filter(|stream| stream.size() == size);
        match (of_size.next(), of_size.next()) {
            (Some(stream), None) => Ok(stream),
            _ => Err(Error::unsupported("which extents belong to this named stream of ReFS cannot be told")),
        }
    }

    /// A stream with its content or its extents in the attribute; `None` when they are elsewhere.
    fn single(value: &Span) -> Result<Option<Self>> {
        let bytes = value.get();
        if let Some(summary) = Summary::parse(bytes) {
            let content = usize::try_from(summary.size).ok().map(|len| slice(bytes, Summary::LEN, len));
            let content = content.filter(|content| content.len() as u64 == summary.size);
            return Ok(content.filter(|_| summary.is_here()).map(|content| Self::Inline(content.to_vec())));
        }
        // Up to version 3.4: the offset of a node for extents, zero for content and where that is.
        if le32(bytes, 0) != 0 {
            return Self::extents(value).map(Some);
        }
        let (at, len) = (le32(bytes, 4) as usize, le32(bytes, 8) as usize);
        let content = slice(bytes, at, len);
        if content.len() != len || at < Summary::LEN {
            return Err(Error::damaged("the content of a file of ReFS lies behind its attribute"));
        }
        Ok(Some(Self::Inline(content.to_vec())))
    }

    fn extents(value: &Span) -> Result<Self> {
        // From version 3.5 on the sizes are at multiples of eight, before that four bytes further on.
        let sizes = |at: usize| {
            let sizes = [0, 8, 16].map(|by| le64(value.get(), at + by));
            let [allocated, size, valid] = sizes;
            (sizes.iter().all(|n| *n < 1 << 56) && valid <= size).then_some(Sizes { allocated, size, valid })
        };
        // Small numbers can be read both ways, the wrong way they are multiples of 2^32.
        let (new, old) = (sizes(0x30), sizes(0x34));
        let is_odd = |sizes: &Sizes| sizes.size != 0 && sizes.size.trailing_zeros() >= 32;
        let found = match (new, old) {
            (Some(new), Some(old)) => Some(if is_odd(&new) && !is_odd(&old) { old } else { new }),
            (new, old) => new.or(old),
        };
        let sizes = found.ok_or_else(|| Error::damaged("the sizes of a stream of ReFS contradict each other"))?;
        Ok(Self::Extents(value.clone(), sizes))
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Extents(_, sizes) => sizes.size,
        }
    }

    /// Bytes that are allocated outside of metadata.
    pub const fn allocated(&self) -> u64 {
        match self {
            Self::Empty | Self::Inline(_) => 0,
            Self::Extents(_, sizes) => sizes.allocated,
        }
    }

    /// The content as a map.
    ///
    /// # Errors
    ///
    /// When the extents cannot be read or contradict themselves.
    pub fn layer(self, pages: &Arc<Pages>) -> Result<Arc<dyn Layer>> {
        Ok(match self {
            Self::Empty => Arc::new(Inline::new(Vec::new(), 0)),
            Self::Inline(bytes) => {
                let size = bytes.len() as u64;
                Arc::new(Inline::new(bytes, size))
            }
            Self::Extents(value, sizes) => Arc::new(Extents::read(pages, value, sizes)?),
        })
    }
}

/// The summary of a stream, from version 3.4 on.
struct Summary {
    flags: u16,
    allocated: u64,
    size: u64,
}

impl Summary {
    /// Bytes of an attribute before its content.
    const LEN: usize = 0x3c;

    fn parse(value: &[u8]) -> Option<Self> {
        // Where the summary is and how long.
        let is_one = le32(value, 0) & 0xffff == 0 && (le32(value, 8), le32(value, 12)) == (0x0c, 0x30);
        (is_one && value.len() >= Self::LEN).then(|| Self {
            flags: le16(value, 0x10),
            allocated: le64(value, 0x18),
            size: le64(value, 0x20),
        })
    }

    /// Whether the content follows: what has clusters of its own is allocated in whole ones.
    fn is_here(&self) -> bool {
        self.size.checked_next_multiple_of(16).is_some_and(|rounded| self.allocated <= rounded)
    }
}

/// Clusters that follow each other, in a file and on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Extent {
    /// Which block of the file the first one is.
    at: u64,
    /// How many.
    len: u64,
    /// The number of the first one.
    block: u64,
}

impl Extent {
    fn parse(bytes: &[u8], is_first: bool) -> Self {
        if is_first {
            return Self { at: le64(bytes, 0), len: le64(bytes, 8), block: le64(bytes, 16) };
        }
        // The number in the file is 64 bits wide, at a place that is no multiple of eight.
        Self { block: le64(bytes, 0), at: le64(bytes, 12), len: le32(bytes, 20).into() }
    }
}

/// Content in extents.
struct Extents {
    pages: Arc<Pages>,
    extents: Vec<Extent>,
    sizes: Sizes,
    files: [Arc<dyn ReadAt>; 1],
}

impl Extents {
    fn read(pages: &Arc<Pages>, value: Span, sizes: Sizes) -> Result<Self> {
        let is_first = pages.boot().is_first();
        let tree = Tree { pages, root: Root::Value(value), addressing: Addressing::Virtual };
        let mut extents: Vec<Extent> = Vec::new();
        tree.leaves(0, &mut |_, node, _| {
            let entries = match node.extents()? {
                Some(entries) => entries,
                None => {
                    let rows = (0..node.count).map(|index| node.row(index));
                    let rows = rows.filter(|row| row.as_ref().map_or(true, |row| !row.is_deleted));
                    rows.map(|row| row.map(|row| row.value)).collect::<Result<_>>()?
                }
            };
            extents.extend(entries.iter().map(|entry| Extent::parse(entry.get(), is_first)).filter(|e| e.len > 0));
            if extents.len() > EXTENTS_MAX {
                return Err(Error::new(
                    ErrorKind::Limit,
                    format!("a file of ReFS has more than {EXTENTS_MAX} extents"),
                ));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if extents.is_empty() && sizes.valid > 0 && sizes.allocated > 0 {
            return Err(Error::unsupported("a file of ReFS has no extents where they should be"));
        }
        extents.sort_unstable();
        let overlaps = |two: &[Extent]| matches!(two, [a, b] if a.at.checked_add(a.len).is_none_or(|end| end > b.at));
        if extents.windows(2).any(overlaps) {
            return Err(Error::damaged("extents of a file of ReFS lie over each other"));
        }
        let device: Arc<dyn ReadAt> = Arc::clone(pages.device()) as _;
        Ok(Self { pages: Arc::clone(pages), extents, sizes, files: [device] })
    }

    /// What lies together at `offset`, which was written.
    fn piece(&self, offset: u64) -> Result<Run> {
        let unit = u64::from(self.pages.boot().unit);
        let (block, skip) = (offset / unit, offset % unit);
        let next = self.extents.partition_point(|extent| extent.at <= block);
        let extent = next.checked_sub(1).and_then(|i| self.extents.get(i)).filter(|e| block - e.at < e.len);
        let Some(extent) = extent else {
            let end = self.extents.get(next).map_or(u64::MAX, |extent| extent.at.saturating_mul(unit));
            return Ok(Run { len: end.min(self.sizes.valid) - offset, place: Place::Zero });
        };
        let within = block - extent.at;
        let number = extent.block.checked_add(within).ok_or_else(|| Error::damaged("an extent outside the volume"))?;
        let (place, together) = self.pages.place(number, Addressing::Virtual)?;
        let len = together.min(extent.len - within).saturating_mul(unit) - skip;
        let place = Place::Stored { file: 0, offset: place.saturating_add(skip) };
        Ok(Run { len: len.min(self.sizes.valid - offset), place })
    }
}

impl Layer for Extents {
    fn size(&self) -> u64 {
        self.sizes.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        if offset >= self.sizes.valid {
            return Ok(Run { len: self.sizes.size.saturating_sub(offset), place: Place::Zero });
        }
        joined(offset, limit, self.sizes.valid, |at| self.piece(at))
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }
}
