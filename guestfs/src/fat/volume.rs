//! A volume as a filesystem.

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use blockdev::{
    BlockDevice, Error, Result,
    fields::{le32, read},
    images::layer::Layer,
    partitions,
};

use super::{
    boot::{self, Boot, Root},
    clusters::{Clusters, Content, Layout, Table, Width},
    entry::{Assembler, Short, Step},
    slots::{Region, SLOT, Slots},
};
use crate::{
    DirEntry, FileId, FileSystem, Info, Kind, Metadata, Time, Usage, Xattr,
    index::{Named, Names, Sink},
};

/// The root directory, which has no entry: a number that no entry can have, since all are at multiples of 32.
const ROOT: u64 = 1;

/// Bytes that a directory can have (6.2: 65,536 slots).
const DIRECTORY_MAX: u64 = 65_536 * SLOT as u64;

/// A FAT volume.
pub struct Fat {
    boot: Boot,
    info: Info,
    clusters: Arc<Clusters>,
    slots: Slots,
    names: Names,
    root: Region,
    free: OnceLock<u32>,
}

impl Fat {
    /// The one on `device`.
    ///
    /// # Errors
    ///
    /// When the boot sector contradicts itself, or the root directory has no place.
    pub fn open(device: Arc<dyn BlockDevice>) -> Result<Self> {
        let mut boot = Boot::parse(&read(device.as_ref(), 0, boot::LEN)?)?;
        let mut notes = Vec::new();
        if device.size() < boot.size {
            notes.push(format!("the volume has {} bytes, its filesystem {}: it was cut off", device.size(), boot.size));
        }
        // A table that was overwritten, or lies on a bad sector, is most often so from its beginning on.
        let is_sound = |copy| {
            let table = Table::new(Arc::clone(&device), boot.table);
            table.cursor(copy).raw(0).is_ok_and(|entry| entry & 0xff == u32::from(boot.media))
        };
        if let Some(other) = boot.table.other.filter(|other| !is_sound(boot.table.first) && is_sound(*other)) {
            boot.table = Layout { first: other, other: Some(boot.table.first), ..boot.table };
            notes.push("the first file allocation table is damaged: the second one is read".to_owned());
        }
        let content = partitions::detect(device.as_ref())?.filter(|content| content.kind == boot.kind());
        let table = Table::new(device, boot.table);
        notes.extend(state(&boot, &table));
        let clusters = Arc::new(Clusters::new(boot.heap, table));
        let root = match boot.root {
            Root::Fixed(start, len) => Region::Fixed { start, len },
            Root::Cluster(first) => {
                let chain = clusters.chain_to_end(first, DIRECTORY_MAX.div_ceil(boot.heap.size.into()));
                Region::Chain(chain.map_err(|e| e.context("the root directory"))?)
            }
        };
        let slots = Slots::new(Arc::clone(&clusters));
        let (label, uuid) = content.map_or((None, None), |content| (content.label, content.uuid));
        let label = label_in(&slots, &root).or(label);
        let info = Info { kind: boot.kind(), label, uuid, block_size: boot.heap.size, notes };
        Ok(Self { boot, info, clusters, slots, names: Names::new(), root, free: OnceLock::new() })
    }

    /// The slot with the short name of `file`, which is not the root.
    fn short(&self, file: FileId) -> Result<Short> {
        let place = file.number;
        let in_root = |root: &Region| match root {
            Region::Fixed { start, len } => (*start..start.saturating_add(*len)).contains(&place),
            Region::Chain(_) => false,
        };
        if !place.is_multiple_of(SLOT as u64) || !(in_root(&self.root) || self.boot.heap.cluster_of(place).is_some()) {
            return Err(no_such(file));
        }
        let short = Short(self.slots.at(place)?);
        if short.is_file() { Ok(short) } else { Err(no_such(file)) }
    }

    /// Where the slots of the directory `dir` are.
    fn region(&self, dir: FileId) -> Result<Region> {
        if dir.number == ROOT {
            return Ok(self.root.clone());
        }
        let short = self.short(dir)?;
        if short.kind() != Kind::Dir {
            return Err(Error::invalid(format!("the file at byte {} is not a directory", dir.number)));
        }
        let first = short.cluster(self.is_wide());
        let chain = self.clusters.chain_to_end(first, DIRECTORY_MAX.div_ceil(self.boot.heap.size.into()));
        Ok(Region::Chain(chain.map_err(|e| e.context(format_args!("the directory at byte {}", dir.number)))?))
    }

    /// The entries of the directory `dir` from slot `from` on.
    fn entries(&self, dir: FileId, from: u64, sink: &mut Sink<'_>) -> Result<()> {
        let region = self.region(dir)?;
        let mut assembler = Assembler::new();
        self.slots.visit(&region, u32::try_from(from).unwrap_or(u32::MAX), &mut |slot| {
            Ok(match assembler.push(&slot) {
                Step::Nothing => ControlFlow::Continue(()),
                Step::End => ControlFlow::Break(()),
                Step::Entry { name, first } => {
                    let (file, kind) = (FileId::of(slot.place), Short(*slot.bytes).kind());
                    sink(Named { name, file, kind, first: first.into(), next: u64::from(slot.index) + 1 })
                }
            })
        })
    }

    fn is_wide(&self) -> bool {
        self.boot.width == Width::Fat32
    }

    /// How many clusters are free: as FAT32 keeps it, where that can be, otherwise counted.
    fn count_free(&self) -> Result<u32> {
        /// "FSInfo", 5: two signatures, and a number that may be unknown.
        const SIGNATURES: (u32, u32) = (0x4161_5252, 0x6141_7272);
        if let Some(at) = self.boot.free_count {
            let sector = read(self.clusters.device().as_ref(), at, 512)?;
            let free = le32(&sector, 488);
            if (le32(&sector, 0), le32(&sector, 484)) == SIGNATURES && free <= self.boot.heap.count {
                return Ok(free);
            }
        }
        self.clusters.table().free()
    }
}

impl FileSystem for Fat {
    fn info(&self) -> &Info {
        &self.info
    }

    fn usage(&self) -> Result<Usage> {
        let free = match self.free.get() {
            Some(free) => *free,
            None => *self.free.get_or_init({
                let counted = self.count_free()?;
                move || counted
            }),
        };
        let bytes = |clusters: u32| u64::from(clusters) * u64::from(self.boot.heap.size);
        Ok(Usage { total: bytes(self.boot.heap.count), free: bytes(free), files: None, files_free: None })
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
        let short = if file.number == ROOT { None } else { Some(self.short(file)?) };
        let kind = short.as_ref().map_or(Kind::Dir, Short::kind);
        let cluster = u64::from(self.boot.heap.size);
        let size = match (kind, &short) {
            (Kind::File, Some(short)) => short.size().into(),
            _ => match self.region(file)? {
                Region::Fixed { len, .. } => len,
                Region::Chain(chain) => u64::from(chain.len()) * cluster,
            },
        };
        let modified = short.as_ref().and_then(Short::modified).unwrap_or(Time::default());
        let own = Metadata::without_owner(kind, short.as_ref().is_some_and(Short::is_read_only));
        Ok(Metadata {
            size,
            allocated: size.div_ceil(cluster) * cluster,
            accessed: short.as_ref().and_then(Short::accessed).unwrap_or(modified),
            modified,
            changed: modified,
            created: short.as_ref().and_then(Short::created),
            ..own
        })
    }

    fn content(&self, file: FileId) -> Result<Arc<dyn Layer>> {
        let short = self.short(file)?;
        if short.kind() != Kind::File {
            return Err(Error::invalid(format!("the entry at byte {} is a directory", file.number)));
        }
        let size = u64::from(short.size());
        let chain = match size {
            0 => None,
            _ => Some(self.clusters.chain(short.cluster(self.is_wide()), self.boot.heap.needed(size))),
        };
        let chain = chain.transpose().map_err(|e| e.context(format_args!("the file at byte {}", file.number)))?;
        Ok(Arc::new(Content::new(Arc::clone(&self.clusters), chain, size, size)))
    }

    fn link_target(&self, link: FileId) -> Result<Vec<u8>> {
        Err(Error::invalid(format!("FAT has no symbolic links: the entry at byte {} is none", link.number)))
    }

    fn xattrs(&self, _: FileId) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

/// The label among the first slots of the root directory. What cannot be read there is said when it is listed.
fn label_in(slots: &Slots, root: &Region) -> Option<String> {
    /// It is the first one, since formatting makes it.
    const LOOKED_AT: u32 = 2048;
    let mut label = None;
    let _ = slots.visit(root, 0, &mut |slot| {
        label = Short(*slot.bytes).label();
        let is_over = label.is_some() || slot.index >= LOOKED_AT || slot.bytes[0] == 0;
        Ok(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    label
}

fn no_such(file: FileId) -> Error {
    Error::not_found(format!("there is no file at byte {} of the FAT volume", file.number))
}

/// What the volume says of its own state: a bit in the boot sector, and two in the second entry of the table, which are
/// set while all is well (4.1).
fn state(boot: &Boot, table: &Table) -> Vec<String> {
    let (clean, no_errors) = match boot.width {
        Width::Fat12 | Width::ExFat => (0, 0),
        Width::Fat16 => (1 << 15, 1 << 14),
        Width::Fat32 => (1 << 27, 1 << 26),
    };
    // What cannot be read here is said where it is needed.
    let bits = table.cursor(table.first_copy()).raw(1).unwrap_or(u32::MAX);
    let mut notes = Vec::new();
    if boot.is_in_use || bits & clean != clean {
        notes.push("the volume was in use when it was copied: its last changes may be missing or half done".to_owned());
    }
    if bits & no_errors != no_errors {
        notes.push("the volume has met read or write errors on its disk: run a check of the guest's disk".to_owned());
    }
    notes
}
