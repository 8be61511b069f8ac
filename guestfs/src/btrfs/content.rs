//! The content of a file as a map from its bytes to logical addresses.
//!
//! Extent items are decoded some hundreds at once and kept, so that reading on costs no walk in the tree.

use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{
    Error, ReadAt, Result,
    images::layer::{Layer, Place, Run, joined},
};

use super::{
    extent::Extent,
    inode::Inode,
    key::{Key, kind},
    tree::Tree,
    unpack::Unit,
};

/// Extent items that are decoded at once.
const WINDOW: usize = 256;

/// Places in [`Content::files`].
const CHECKED: u32 = 0;
const PLAIN: u32 = 1;
const INLINE: u32 = 2;

/// The content of a file.
pub struct Content {
    tree: Arc<Tree>,
    number: u64,
    size: u64,
    sector: u32,
    /// Which of `files` has the data.
    data: u32,
    files: [Arc<dyn ReadAt>; 3],
    window: Mutex<Arc<Window>>,
}

/// A range of the file, and where its parts begin, in order.
#[derive(Default)]
struct Window {
    start: u64,
    end: u64,
    parts: Vec<(u64, Place)>,
}

impl Window {
    /// The run at `offset`, if that is within.
    fn run_at(&self, offset: u64) -> Option<Run> {
        if offset < self.start || offset >= self.end {
            return None;
        }
        let next = self.parts.partition_point(|(start, _)| *start <= offset);
        let (start, place) = *next.checked_sub(1).and_then(|i| self.parts.get(i))?;
        let end = self.parts.get(next).map_or(self.end, |(start, _)| *start);
        Some(Run { len: end - offset, place: place.advanced(offset - start) })
    }
}

impl Content {
    /// That of inode `number` of `tree`, with data in `checked`, or in `plain` where it has no checksums.
    ///
    /// # Errors
    ///
    /// When inline content cannot be unpacked.
    pub fn new(
        tree: Arc<Tree>,
        number: u64,
        inode: &Inode,
        sector: u32,
        checked: Arc<dyn ReadAt>,
        plain: Arc<dyn ReadAt>,
    ) -> Result<Self> {
        let inline = inline(&tree, number, sector)?.unwrap_or_default();
        Ok(Self {
            tree,
            number,
            size: inode.size,
            sector,
            data: if inode.has_no_sums() { PLAIN } else { CHECKED },
            files: [checked, plain, Arc::new(inline)],
            window: Mutex::default(),
        })
    }

    /// The window with `offset`.
    fn load(&self, offset: u64) -> Result<Window> {
        let this = |key: &Key| key.is(self.number, kind::EXTENT_DATA);
        let at = Key::new(self.number, kind::EXTENT_DATA, offset);
        let from = self.tree.floor(at)?.filter(|item| this(&item.key)).map_or(offset, |item| item.key.offset);
        let mut window = Window { start: from, end: self.size.max(offset.saturating_add(1)), parts: Vec::new() };
        let mut items = self.tree.of(self.number, kind::EXTENT_DATA, from)?;
        // Where what is known so far ends.
        let mut end = from;
        while let Some(item) = items.next()? {
            let start = item.key.offset;
            if start > end {
                window.parts.push((end, Place::Zero));
            }
            if window.parts.len() >= WINDOW {
                window.end = start;
                return Ok(window);
            }
            let extent = Extent::parse(item.data(), self.sector)?;
            if start > 0 && matches!(extent, Extent::Inline { .. }) {
                return Err(Error::damaged(format!("has content within its metadata for byte {start}")));
            }
            window.parts.push((start, extent.place(self.data, INLINE, self.sector)?));
            end = start.saturating_add(extent.len());
        }
        if end < window.end {
            window.parts.push((end, Place::Zero));
        }
        Ok(window)
    }

    fn run(&self, offset: u64) -> Result<Run> {
        let kept = Arc::clone(&self.window.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(run) = kept.run_at(offset) {
            return Ok(run);
        }
        let window = Arc::new(self.load(offset).map_err(|e| e.context(format!("inode {}", self.number)))?);
        let run = window.run_at(offset);
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = window;
        run.ok_or_else(|| Error::damaged(format!("inode {} has nothing at byte {offset}", self.number)))
    }
}

/// The content of inode `number` that is within its metadata.
pub fn inline(tree: &Tree, number: u64, sector: u32) -> Result<Option<Vec<u8>>> {
    let Some(item) = tree.get(Key::new(number, kind::EXTENT_DATA, 0))? else { return Ok(None) };
    let inside = || -> Result<Option<Vec<u8>>> {
        let Extent::Inline { method, len, bytes } = Extent::parse(item.data(), sector)? else { return Ok(None) };
        let mut content = Vec::new();
        match method {
            Some(method) => method.unpack(bytes, len, sector, &mut content)?,
            None if bytes.len() < len => {
                return Err(Error::damaged(format!("has {} bytes within its metadata, not {len}", bytes.len())));
            }
            None => content.extend_from_slice(bytes.get(..len).unwrap_or_default()),
        }
        Ok(Some(content))
    };
    inside().map_err(|e| e.context(format!("inode {number}")))
}

impl Layer for Content {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        joined(offset, limit, self.size, |at| self.run(at))
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }

    fn unpack(&self, unit: u64, out: &mut Vec<u8>) -> Result<()> {
        let mut unpacked = || {
            let unit = Unit::from_number(unit, self.sector)?;
            let mut packed = vec![0; unit.packed as usize];
            let data = self.files.get(self.data as usize);
            let data = data.ok_or_else(|| Error::damaged("data that is nowhere"))?;
            if data.read_at(&mut packed, unit.logical)? < packed.len() {
                return Err(Error::damaged(format!("logical address {} lies in no chunk", unit.logical)));
            }
            unit.method.unpack(&packed, unit.len as usize, self.sector, out)
        };
        unpacked().map_err(|e| e.context(format!("inode {}", self.number)))
    }
}
