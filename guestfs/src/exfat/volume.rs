//! A volume as a filesystem.

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use blockdev::{
    BlockDevice, BlockSizes, Error, Result,
    fields::{le32, le64, read},
    images::{Disk, layer::Layer},
    partitions::{self, FsKind},
};

use super::{
    boot::Boot,
    set::{Assembler, SLOTS_MAX, Set, Step},
};
use crate::{
    DirEntry, FileId, FileSystem, Info, Kind, Metadata, Time, Usage, Xattr,
    fat::{
        clusters::{Chain, Clusters, Content, Table},
        slots::{Region, SLOT, Slots},
    },
    index::{Named, Names, Sink},
};

/// The root directory, which has no entry.
const ROOT: u64 = 2;

/// In a [`FileId`]: the directory that has the file is contiguous.
const IN_CONTIGUOUS: u64 = 1;

/// Bytes that a directory can have (7.6.7).
const DIRECTORY_MAX: u64 = 256 << 20;

/// Bytes of the allocation bitmap that are read at once.
const BITMAP_PART: usize = 64 << 10;

/// An exFAT volume.
pub struct ExFat {
    boot: Boot,
    info: Info,
    clusters: Arc<Clusters>,
    slots: Slots,
    names: Names,
    root: Region,
    free: OnceLock<u64>,
}

impl ExFat {
    /// The one on `device`.
    ///
    /// # Errors
    ///
    /// When both boot regions are damaged, or the root directory has no place.
    pub fn open(device: Arc<dyn BlockDevice>) -> Result<Self> {
        let boot = Boot::read(device.as_ref())?;
        let content = partitions::detect(device.as_ref())?.filter(|content| content.kind == FsKind::ExFat);
        let info = Info {
            kind: FsKind::ExFat,
            label: content.and_then(|content| content.label),
            uuid: Some(format!("{:04X}-{:04X}", boot.serial >> 16, boot.serial & 0xffff)),
            block_size: boot.heap.size,
            notes: boot.notes(device.size()),
        };
        let clusters = Arc::new(Clusters::new(boot.heap, Table::new(device, boot.table)));
        let root = clusters.chain_to_end(boot.root, DIRECTORY_MAX.div_ceil(boot.heap.size.into()));
        let root = Region::Chain(root.map_err(|e| e.context("the root directory"))?);
        let slots = Slots::new(Arc::clone(&clusters));
        Ok(Self { boot, info, clusters, slots, names: Names::new(), root, free: OnceLock::new() })
    }

    /// The set of `file`, which is not the root, with the right checksum.
    fn set(&self, file: FileId) -> Result<Set> {
        let place = file.number & !IN_CONTIGUOUS;
        let cluster = self.boot.heap.cluster_of(place).filter(|_| place.is_multiple_of(SLOT as u64));
        let (cluster, within) = cluster.ok_or_else(|| no_such(file))?;
        // The set may go on in the next clusters.
        let span = self.boot.heap.needed(u64::from(within) + (SLOTS_MAX * SLOT) as u64);
        let chain = if span == 1 {
            self.clusters.contiguous(cluster, 1)
        } else if file.number & IN_CONTIGUOUS != 0 {
            let left = u64::from(self.boot.heap.count - (cluster - 2));
            self.clusters.contiguous(cluster, span.min(left))
        } else {
            self.clusters.chain_to_end(cluster, span)
        }?;
        let (mut assembler, mut found) = (Assembler::default(), None);
        self.slots.visit(&Region::Chain(chain), within / SLOT as u32, &mut |slot| {
            let step = assembler.push(&slot);
            if matches!(step, Step::Nothing) && assembler.is_within() {
                return Ok(ControlFlow::Continue(()));
            }
            if let Step::Set(set) = step {
                found = Some(set);
            }
            Ok(ControlFlow::Break(()))
        })?;
        let set = found.ok_or_else(|| no_such(file))?;
        set.check()?;
        Ok(*set)
    }

    /// Where the slots of the directory `dir` are, and whether they are contiguous.
    fn region(&self, dir: FileId) -> Result<(Region, bool)> {
        if dir.number == ROOT {
            return Ok((self.root.clone(), false));
        }
        let set = self.set(dir)?;
        if set.kind() != Kind::Dir {
            return Err(Error::invalid(format!("the file at byte {} is not a directory", set.place)));
        }
        if set.size() > DIRECTORY_MAX {
            let of = format!("the directory at byte {} has {} bytes, more than there can be", set.place, set.size());
            return Err(Error::damaged(of));
        }
        let chain = self.chain(&set, set.size()).map_err(|e| e.context(format_args!("the directory at {}", set.place)));
        let region = chain?.map_or(Region::Fixed { start: 0, len: 0 }, Region::Chain);
        Ok((region, set.is_contiguous()))
    }

    /// The clusters of the first `bytes` of the content of `set`; `None` for no bytes.
    fn chain(&self, set: &Set, bytes: u64) -> Result<Option<Arc<Chain>>> {
        let needed = self.boot.heap.needed(bytes);
        Ok(match needed {
            0 => None,
            _ if set.is_contiguous() => Some(self.clusters.contiguous(set.cluster(), needed)?),
            _ => Some(self.clusters.chain(set.cluster(), needed)?),
        })
    }

    /// The entries of the directory `dir` from slot `from` on.
    fn entries(&self, dir: FileId, from: u64, sink: &mut Sink<'_>) -> Result<()> {
        let (region, is_contiguous) = self.region(dir)?;
        let mark = if is_contiguous { IN_CONTIGUOUS } else { 0 };
        let (mut assembler, mut was_cut_short) = (Assembler::default(), false);
        self.slots.visit(&region, u32::try_from(from).unwrap_or(u32::MAX), &mut |slot| {
            Ok(match assembler.push(&slot) {
                Step::Nothing => ControlFlow::Continue(()),
                Step::End => ControlFlow::Break(()),
                Step::Set(set) => {
                    let (file, kind) = (FileId::of(set.place | mark), set.kind());
                    let (first, next) = (set.first.into(), set.next().into());
                    let flow = sink(Named { name: set.name(), file, kind, first, next });
                    was_cut_short = flow.is_break();
                    flow
                }
            })
        })?;
        match assembler.damaged {
            Some(place) if !was_cut_short => Err(Error::damaged(format!(
                "the directory entry at byte {place} is not a whole one: a file is missing"
            ))),
            _ => Ok(()),
        }
    }

    /// Bytes that are free, as the allocation bitmap says.
    fn count_free(&self) -> Result<u64> {
        /// 7.1: its flags say to which table it belongs.
        const BITMAP: u8 = 0x81;
        let mut found = None;
        self.slots.visit(&self.root, 0, &mut |slot| {
            let [kind, flags, ..] = *slot.bytes;
            if kind == BITMAP && flags & 1 == self.boot.bitmap() {
                found = Some((le32(slot.bytes, 20), le64(slot.bytes, 24)));
            }
            Ok(if kind == 0 || found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        let (first, len) = found.ok_or_else(|| Error::damaged("the exFAT volume has no allocation bitmap"))?;
        let count = u64::from(self.boot.heap.count);
        if len < count.div_ceil(8) {
            let of = format!("the allocation bitmap has {len} bytes for {count} clusters");
            return Err(Error::damaged(of));
        }
        let len = count.div_ceil(8);
        let chain = self.clusters.chain(first, self.boot.heap.needed(len))?;
        let content = Content::new(Arc::clone(&self.clusters), Some(chain), len, len);
        let bitmap = Disk::new(vec![Arc::new(content)], BlockSizes::CLASSIC)?;
        let mut used = 0;
        for at in (0..len).step_by(BITMAP_PART) {
            let mut part = read(&bitmap, at, BITMAP_PART)?;
            if at + BITMAP_PART as u64 >= len
                && let (Some(last), bits @ 1..) = (part.last_mut(), count % 8)
            {
                // Bits behind the last cluster say nothing.
                *last &= (1 << bits) - 1;
            }
            used += part.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
        }
        Ok((count - used) * u64::from(self.boot.heap.size))
    }
}

impl FileSystem for ExFat {
    fn info(&self) -> &Info {
        &self.info
    }

    fn usage(&self) -> Result<Usage> {
        let free = match self.free.get() {
            Some(free) => *free,
            None => {
                let counted = self.count_free()?;
                *self.free.get_or_init(|| counted)
            }
        };
        let total = u64::from(self.boot.heap.count) * u64::from(self.boot.heap.size);
        Ok(Usage { total, free, files: None, files_free: None })
    }

    fn root(&self) -> FileId {
        FileId::of(ROOT)
    }

    fn lookup(&self, dir: FileId, name: &[u8]) -> Result<Option<FileId>> {
        self.names.lookup(dir, name, &|from, sink| self.entries(dir, from, sink))
    }

    fn list(&self, dir: FileId, cookie: u64, sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        self.entries(dir, cookie, &mut |named| sink(named.into()))
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        let set = if file.number == ROOT { None } else { Some(self.set(file)?) };
        let kind = set.as_ref().map_or(Kind::Dir, Set::kind);
        let cluster = u64::from(self.boot.heap.size);
        let size = match (&set, &self.root) {
            (Some(set), _) => set.size(),
            (None, Region::Chain(chain)) => u64::from(chain.len()) * cluster,
            (None, Region::Fixed { len, .. }) => *len,
        };
        let modified = set.as_ref().and_then(Set::modified).unwrap_or(Time::default());
        let own = Metadata::without_owner(kind, set.as_ref().is_some_and(Set::is_read_only));
        Ok(Metadata {
            size,
            allocated: self.boot.heap.needed(size).saturating_mul(cluster),
            accessed: set.as_ref().and_then(Set::accessed).unwrap_or(modified),
            modified,
            changed: modified,
            created: set.as_ref().and_then(Set::created),
            ..own
        })
    }

    fn content(&self, file: FileId) -> Result<Arc<dyn Layer>> {
        let set = self.set(file)?;
        if set.kind() != Kind::File {
            return Err(Error::invalid(format!("the entry at byte {} is a directory", set.place)));
        }
        let (size, valid) = (set.size(), set.valid());
        if valid > size || self.boot.heap.needed(size) > u64::from(self.boot.heap.count) {
            let of = format!("the file at byte {} has {size} bytes, {valid} of them valid", set.place);
            return Err(Error::damaged(of));
        }
        let chain = self.chain(&set, valid).map_err(|e| e.context(format_args!("the file at byte {}", set.place)))?;
        Ok(Arc::new(Content::new(Arc::clone(&self.clusters), chain, size, valid)))
    }

    fn link_target(&self, link: FileId) -> Result<Vec<u8>> {
        Err(Error::invalid(format!("exFAT has no symbolic links: the entry at byte {} is none", link.number)))
    }

    fn xattrs(&self, _: FileId) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

fn no_such(file: FileId) -> Error {
    Error::not_found(format!("there is no file at byte {} of the exFAT volume", file.number & !IN_CONTIGUOUS))
}
