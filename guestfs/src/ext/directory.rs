//! Directories: lists of entries in blocks, or in the inode itself.
//!
//! An entry is an inode number, the distance to the next entry, and a name; an inode number of 0 marks room. Entries do
//! not cross blocks, so each block is a list for itself, an *area* here; a directory in its inode has two, in the map's
//! place and in an attribute. The nodes of a hash tree look like areas with nothing but room in them: listing goes
//! through the areas in their order and need not know the tree. A cookie is the byte of the directory at which the
//! next entry begins.

use std::{borrow::Cow, ops::ControlFlow, ops::Range, sync::Arc};

use blockdev::{
    Error, Result,
    fields::{le16, le32, slice},
};

use super::{
    checksum,
    dirhash::{Function, Hash},
    features, fscrypt, htree,
    inode::{self, Inode},
    map::Map,
    volume::Volume,
    xattr,
};
use crate::Kind;

/// Bytes of the fixed part of an entry, and of the shortest entry there can be.
const HEAD: usize = 8;
const ENTRY_MIN: usize = 12;
/// Bytes behind the entries of a block with a checksum, dressed up as an entry without a name.
const TAIL: usize = 12;
/// The type of that entry.
const TAIL_KIND: u8 = 0xde;
/// The inode of the parent directory, before the first area in an inode.
const INLINE_PARENT: usize = 4;
/// Holes that are passed in a directory, which should have none, before it is given up.
const HOLES_MAX: u32 = 4096;

/// A directory.
pub struct Directory {
    volume: Arc<Volume>,
    inode: Inode,
    size: u64,
    source: Source,
    names: Names,
}

enum Source {
    Blocks(Map),
    /// The entries of both areas, the first `first` bytes of which are the first area.
    Inline {
        bytes: Arc<[u8]>,
        first: usize,
    },
}

/// How stored names become those that are shown.
#[derive(Debug, Clone, Copy)]
enum Names {
    Plain,
    /// They are encrypted; their hashes, which are shown too, come from this function.
    Encrypted(Option<Function>),
    /// They are encrypted, and their hashes stored behind them.
    EncryptedHashed,
}

/// A list of entries in memory.
struct Area {
    /// Position in the directory of the first of `bytes`.
    base: u64,
    bytes: Arc<[u8]>,
    /// The entries.
    range: Range<usize>,
}

/// An entry.
pub struct Entry<'a> {
    /// The inode.
    pub inode: u32,
    /// Its type, where the entry tells it.
    pub kind: Option<Kind>,
    /// Its position.
    pub at: u64,
    /// Position of the next entry.
    pub next: u64,
    stored_name: &'a [u8],
    /// What is behind the name, rounded up to four bytes: hashes.
    behind: &'a [u8],
}

impl Directory {
    /// That of `inode`.
    ///
    /// # Errors
    ///
    /// `Invalid` when it is no directory; `Damaged` when it cannot be one.
    pub fn open(volume: Arc<Volume>, inode: Inode) -> Result<Self> {
        if inode.kind()? != Kind::Dir {
            return Err(Error::invalid(format!("inode {} is not a directory", inode.number)));
        }
        let size = inode.size(&volume.superblock)?;
        let source = if inode.is(inode::INLINE) {
            let bytes = xattr::inline(&inode)?.into();
            Source::Inline { bytes, first: inode.map().len() }
        } else if size > volume.device().size() {
            return Err(inode.damaged(format_args!("the directory claims {size} bytes")));
        } else {
            Source::Blocks(Map::new(Arc::clone(&volume), &inode))
        };
        let mut directory = Self { volume, inode, size, source, names: Names::Plain };
        if directory.inode.is(inode::ENCRYPTED) {
            directory.names = directory.encrypted_names()?;
        }
        Ok(directory)
    }

    /// Which hashes the kernel puts into the names that it shows of encrypted ones.
    fn encrypted_names(&self) -> Result<Names> {
        if self.inode.is(inode::CASEFOLDED) {
            return Ok(Names::EncryptedHashed);
        }
        // It lists a directory by hash when it has a tree, or could have been one of a single block.
        let is_small = self.inode.is(inode::INLINE) || self.size / self.volume.block_size() == 1;
        let function = if self.is_indexed() {
            self.block(0)?.and_then(|root| htree::function(&root))
        } else if is_small && self.volume.superblock.features.compatible(features::DIR_INDEX) {
            self.volume.superblock.hashing.default_function()
        } else {
            None
        };
        Ok(Names::Encrypted(function))
    }

    /// The volume.
    pub const fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Its inode.
    pub const fn inode(&self) -> &Inode {
        &self.inode
    }

    /// Its size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether it has a hash tree.
    pub fn is_indexed(&self) -> bool {
        self.volume.superblock.features.compatible(features::DIR_INDEX)
            && self.inode.is(inode::INDEXED)
            && matches!(self.source, Source::Blocks(_))
    }

    /// Whether the names that are shown are those that are stored.
    pub const fn has_plain_names(&self) -> bool {
        matches!(self.names, Names::Plain)
    }

    /// The name of `entry` as it is shown.
    pub fn name<'a>(&self, entry: &Entry<'a>) -> Cow<'a, [u8]> {
        let hash = match self.names {
            Names::Plain => return Cow::Borrowed(entry.stored_name),
            Names::EncryptedHashed => Hash { major: le32(entry.behind, 0), minor: le32(entry.behind, 4) },
            Names::Encrypted(None) => Hash::default(),
            Names::Encrypted(Some(function)) => self.volume.superblock.hashing.hash(function, entry.stored_name),
        };
        Cow::Owned(fscrypt::shown(hash, entry.stored_name))
    }

    /// The type of the file of `entry`; that of a file that cannot be read is a guess.
    pub fn kind(&self, entry: &Entry<'_>) -> Kind {
        let of_inode = || self.volume.inode(entry.inode).and_then(|inode| inode.kind()).unwrap_or(Kind::File);
        entry.kind.unwrap_or_else(of_inode)
    }

    /// Calls `sink` for the entries from position `from` on, until it breaks.
    ///
    /// # Errors
    ///
    /// When a block cannot be read or has something else in it.
    pub fn walk(&self, from: u64, mut sink: impl FnMut(&Entry<'_>) -> ControlFlow<()>) -> Result<()> {
        let mut position = from;
        while let Some(area) = self.area(position)? {
            if self.walk_area(&area, position, &mut sink)?.is_break() {
                break;
            }
            position = area.base.saturating_add(area.range.end as u64);
        }
        Ok(())
    }

    /// Calls `sink` for the entries of block `number`, until it breaks.
    ///
    /// # Errors
    ///
    /// When it cannot be read, has something else in it, or is a hole.
    pub fn walk_block(&self, number: u64, mut sink: impl FnMut(&Entry<'_>) -> ControlFlow<()>) -> Result<()> {
        let bytes = self.block(number)?;
        let bytes = bytes.ok_or_else(|| self.inode.damaged(format_args!("its index names block {number}, a hole")))?;
        let area = Area { base: number.saturating_mul(self.volume.block_size()), range: 0..bytes.len(), bytes };
        self.walk_area(&area, 0, &mut sink).map(|_| ())
    }

    fn walk_area(
        &self,
        area: &Area,
        from: u64,
        sink: &mut dyn FnMut(&Entry<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut at = area.range.start;
        while at < area.range.end {
            let (entry, len) = self.entry(area, at)?;
            let is_wanted = entry.at >= from && entry.inode != 0;
            let is_dot = matches!(entry.stored_name, b"." | b"..");
            if is_wanted && !is_dot && sink(&entry).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            at += len;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The area with `position`, or when that is in a hole the next; none behind the end.
    fn area(&self, mut position: u64) -> Result<Option<Area>> {
        let map = match &self.source {
            Source::Blocks(map) => map,
            Source::Inline { bytes, first } => {
                let (first, end) = (*first, bytes.len());
                let range = if position < first as u64 { INLINE_PARENT.min(first)..first } else { first..end };
                let area = || Area { base: 0, bytes: Arc::clone(bytes), range };
                return Ok((position < end as u64).then(area));
            }
        };
        let block_size = self.volume.block_size();
        for _ in 0..HOLES_MAX {
            if position >= self.size {
                return Ok(None);
            }
            let number = position / block_size;
            if let Some(bytes) = self.block(number)? {
                return Ok(Some(Area { base: number * block_size, range: 0..bytes.len(), bytes }));
            }
            position = number.saturating_add(map.run(number)?.0).saturating_mul(block_size);
        }
        Err(self.inode.damaged(format_args!("the directory has holes where entries should be")))
    }

    /// Block `number`, or none where there is a hole.
    ///
    /// # Errors
    ///
    /// When it cannot be read or its checksum is wrong.
    pub fn block(&self, number: u64) -> Result<Option<Arc<[u8]>>> {
        let Source::Blocks(map) = &self.source else { return Ok(None) };
        match map.run(number)? {
            (_, Some(place)) => self.volume.block(place, |bytes| self.check(number, bytes)).map(Some),
            (_, None) => Ok(None),
        }
    }

    /// Nothing, when block `number`, which has `bytes`, has the right checksum.
    fn check(&self, number: u64, bytes: &[u8]) -> Result<()> {
        if !self.volume.superblock.has_checksums() {
            return Ok(());
        }
        let what = format_args!("block {number} of the directory with inode {}", self.inode.number);
        if self.is_indexed() && (number == 0 || is_node(bytes)) {
            return htree::check(bytes, self.inode.seed, what);
        }
        let end = bytes.len().saturating_sub(TAIL);
        let tail = slice(bytes, end, TAIL);
        let has_tail = le32(tail, 0) == 0 && le16(tail, 4) == TAIL as u16 && tail.get(7) == Some(&TAIL_KIND);
        if !has_tail && !cfg!(fuzzing) {
            return Err(checksum::wrong(what));
        }
        checksum::expect(le32(tail, 8), self.inode.seed.add_range(bytes, 0..end).value(), what)
    }

    /// The entry at byte `at` of `area`, and its length.
    fn entry<'a>(&self, area: &'a Area, at: usize) -> Result<(Entry<'a>, usize)> {
        let bytes = area.bytes.get(at..area.range.end).unwrap_or_default();
        let len = entry_len(bytes, area.bytes.len());
        let name_len = usize::from(bytes.get(6).copied().unwrap_or(0));
        let inode = le32(bytes, 0);
        let position = area.base.saturating_add(at as u64);
        let is_sound = (ENTRY_MIN..=bytes.len()).contains(&len) && len.is_multiple_of(4) && HEAD + name_len <= len;
        if !is_sound || inode > self.volume.superblock.inodes || (inode != 0 && name_len == 0) {
            return Err(self.inode.damaged(format_args!("the directory has no entry at its byte {position}")));
        }
        let has_kinds = self.volume.superblock.features.incompatible(features::FILETYPE);
        let kind = bytes.get(7).filter(|_| has_kinds).and_then(|kind| kind_of(*kind));
        let entry = Entry {
            inode,
            kind,
            at: position,
            next: position.saturating_add(len as u64),
            stored_name: slice(bytes, HEAD, name_len),
            behind: bytes.get((HEAD + name_len).next_multiple_of(4)..len).unwrap_or_default(),
        };
        Ok((entry, len))
    }
}

/// The length of the entry that `bytes` begin with, in a block of `block` bytes. Sixteen bits do not count those of
/// 64 KiB: the two lowest, which are not needed, become the highest, and two values stand for the whole block.
fn entry_len(bytes: &[u8], block: usize) -> usize {
    let len = usize::from(le16(bytes, 4));
    match len {
        _ if block < 1 << 16 => len,
        0 | 0xffff => block,
        _ => len & 0xfffc | (len & 3) << 16,
    }
}

/// Whether a block of a directory with a hash tree looks like a node of it: one entry of nothing.
fn is_node(block: &[u8]) -> bool {
    entry_len(block, block.len()) == block.len()
}

/// The type that an entry tells by a number.
const fn kind_of(number: u8) -> Option<Kind> {
    Some(match number {
        1 => Kind::File,
        2 => Kind::Dir,
        3 => Kind::CharDevice,
        4 => Kind::BlockDevice,
        5 => Kind::Fifo,
        6 => Kind::Socket,
        7 => Kind::Symlink,
        _ => return None,
    })
}
