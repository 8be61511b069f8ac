//! Where the blocks of a file are: its map, decoded a window at a time.
//!
//! Both kinds of map are trees whose leaves tell many blocks at once (a leaf of extents, a block of pointers). What the
//! last leaf said is kept decoded and joined: a sequential read walks the tree once for each leaf.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use blockdev::{
    Error, ErrorKind, ReadAt, Result,
    images::layer::{Layer, Place, Run, joined},
};

use super::{
    checksum::Crc32c,
    extents, indirect,
    inode::{self, Inode},
    volume::Volume,
};

/// Consecutive blocks of a file that are consecutive on the volume.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// The first, as the file counts.
    at: u64,
    len: u64,
    /// The first, as the volume counts.
    to: u64,
}

/// Where some blocks of a file are.
pub struct Window {
    /// The blocks it tells about, as the file counts.
    range: Range<u64>,
    /// Those that are anywhere, in ascending order; the others are holes.
    pieces: Vec<Piece>,
}

impl Window {
    /// That about `range`, in which all is a hole so far.
    pub const fn new(range: Range<u64>) -> Self {
        Self { range, pieces: Vec::new() }
    }

    /// The `len` blocks from `at` on, behind all before, are at block `to`.
    pub fn push(&mut self, at: u64, len: u64, to: u64) {
        match self.pieces.last_mut() {
            Some(last) if last.at + last.len == at && last.to + last.len == to => last.len += len,
            _ => self.pieces.push(Piece { at, len, to }),
        }
    }

    /// From `block` on, which is in its range: how many blocks lie together, and where.
    fn run(&self, block: u64) -> (u64, Option<u64>) {
        let next = self.pieces.partition_point(|piece| piece.at <= block);
        if let Some(piece) = next.checked_sub(1).and_then(|n| self.pieces.get(n)) {
            let skip = block - piece.at;
            if skip < piece.len {
                return (piece.len - skip, Some(piece.to + skip));
            }
        }
        let end = self.pieces.get(next).map_or(self.range.end, |piece| piece.at);
        (end - block, None)
    }
}

/// What a map needs to know of its file.
pub struct Origin<'a> {
    /// The volume.
    pub volume: &'a Volume,
    /// The number of the inode.
    pub inode: u32,
    /// Where the checksums of its blocks start.
    pub seed: Crc32c,
    /// The map in the inode.
    pub root: &'a [u8],
}

impl Origin<'_> {
    /// The error that the map is damaged, and how.
    pub fn damaged(&self, how: std::fmt::Arguments<'_>) -> Error {
        inode::damaged(self.inode, how)
    }
}

/// Where the blocks of a file are.
pub struct Map {
    volume: Arc<Volume>,
    inode: u32,
    seed: Crc32c,
    has_extents: bool,
    root: Vec<u8>,
    recent: Mutex<Arc<Window>>,
}

impl Map {
    /// The map of `inode`, whose content is not in itself.
    pub fn new(volume: Arc<Volume>, inode: &Inode) -> Self {
        Self {
            volume,
            inode: inode.number,
            seed: inode.seed,
            has_extents: inode.is(inode::EXTENTS),
            root: inode.map().to_vec(),
            recent: Mutex::new(Arc::new(Window::new(0..0))),
        }
    }

    /// The volume.
    pub const fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// From `block` on, as the file counts: how many blocks, at least one, lie together, and where; nowhere in a hole.
    ///
    /// # Errors
    ///
    /// When the map is damaged there.
    pub fn run(&self, block: u64) -> Result<(u64, Option<u64>)> {
        let recent = Arc::clone(&self.recent.lock().unwrap_or_else(PoisonError::into_inner));
        if recent.range.contains(&block) {
            return Ok(recent.run(block));
        }
        let origin = Origin { volume: &self.volume, inode: self.inode, seed: self.seed, root: &self.root };
        let window = if self.has_extents { extents::window(&origin, block) } else { indirect::window(&origin, block) }?;
        if !window.range.contains(&block) {
            return Err(origin.damaged(format_args!("its map does not tell of block {block}")));
        }
        let run = window.run(block);
        *self.recent.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(window);
        Ok(run)
    }
}

/// The content of a file.
pub struct Content {
    map: Map,
    size: u64,
}

impl Content {
    /// That of `size` bytes, below 2^63, which `map` maps.
    pub const fn new(map: Map, size: u64) -> Self {
        Self { map, size }
    }

    /// All its bytes, when there are at most `max`.
    ///
    /// # Errors
    ///
    /// `Limit` when there are more; what reading gives.
    pub fn read(&self, max: u64) -> Result<Vec<u8>> {
        if self.size > max {
            let message = format!("inode {} has {} bytes where at most {max} can be", self.map.inode, self.size);
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let mut bytes = vec![0; self.size as usize];
        let (mut rest, mut at) = (bytes.as_mut_slice(), 0);
        while !rest.is_empty() {
            let run = self.run_at(at, rest.len() as u64)?;
            let len = usize::try_from(run.len).unwrap_or(usize::MAX).min(rest.len());
            let (part, tail) = rest.split_at_mut(len);
            if let Place::Stored { offset, .. } = run.place
                && self.map.volume.device().read_at(part, offset)? < len
            {
                return Err(inode::damaged(self.map.inode, format_args!("its content lies behind the volume's end")));
            }
            at += len as u64;
            rest = tail;
        }
        Ok(bytes)
    }
}

impl Layer for Content {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        let block_size = self.map.volume.block_size();
        joined(offset, limit, self.size, |at| {
            let (block, skip) = (at / block_size, at % block_size);
            let (blocks, place) = self.map.run(block)?;
            let place = place.map_or(Place::Zero, |to| Place::Stored { file: 0, offset: to * block_size + skip });
            Ok(Run { len: blocks.saturating_mul(block_size) - skip, place })
        })
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        self.map.volume.files()
    }
}
