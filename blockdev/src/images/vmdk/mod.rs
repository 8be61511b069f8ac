//! VMware's VMDK, all kinds.
//!
//! A disk is a row of *extents*: plain files, sparse extents of three kinds, and zeros. A *descriptor* tells them and
//! the parent; it is a small text file beside them, or embedded in the only extent.
//!
//! * `descriptor`: that text;
//! * `grains`: what the sparse extents have in common: grains found through two levels of tables;
//! * `hosted`: those of Workstation and of exports, "KDMV", with `stream` for the end of a streamOptimized one;
//! * `cowd`, `sesparse`: the snapshots of ESXi;
//! * here: putting a disk together.
//!
//! A descriptor names files by whatever path its host had. Only the last part of it counts, and it is looked for among
//! the [`Neighbours`]; what names a device is refused.

mod cowd;
mod descriptor;
mod grains;
mod hosted;
mod sesparse;
mod stream;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

pub(super) use self::descriptor::is_descriptor;
use self::{
    descriptor::{Descriptor, Kind},
    grains::{SECTOR, SECTORS_MAX},
};
use super::{
    Format, Info, Opened, Parent,
    gate::{Neighbours, base_name},
    layer::{Layer, Place, Run},
    tables::Tables,
};
use crate::{Error, ErrorKind, ReadAt, Result};

/// Bytes of tables that are kept.
const TABLES_MAX: u64 = 8 << 20;

/// Extents that a disk may have: VMware makes them of 2 GB and disks of up to 8 TB of them.
const EXTENTS_MAX: usize = 1 << 14;

/// The first bit of the extent's number in a unit; the number of the grain is below (see [`SECTORS_MAX`]).
const UNIT_EXTENT: u32 = 48;

/// Open a VMDK: a descriptor or a sparse extent, with one embedded or without any.
///
/// # Errors
///
/// When it is not what it claims to be, stands for a device, is encrypted, or an extent of it is missing.
pub fn open(file: Arc<dyn ReadAt>, neighbours: &dyn Neighbours) -> Result<Opened> {
    let head: [u8; SECTOR as usize] = hosted::read(file.as_ref(), 0)?;
    if is_descriptor(&head, file.size()) {
        return open_described(&read_descriptor(file.as_ref(), 0, file.size())?, neighbours);
    }
    let mut embedded = Descriptor::default();
    if head.starts_with(&hosted::MAGIC) {
        let header = hosted::Header::read(file.as_ref(), 0)?;
        if let Some(found) = read_embedded(file.as_ref(), &header)? {
            if header.capacity == 0 {
                return open_described(&found, neighbours);
            }
            embedded = found;
        }
    }
    open_extent(file, &embedded)
}

/// Open the disk that `descriptor` tells.
fn open_described(descriptor: &Descriptor, neighbours: &dyn Neighbours) -> Result<Opened> {
    let mut disk = Builder::default();
    let mut flat = HashMap::new();
    let mut no_access = 0_u64;
    if descriptor.extents.is_empty() || descriptor.extents.len() > EXTENTS_MAX {
        return Err(Error::damaged(format!(
            "the VMDK's descriptor has {} extents: 1 to {EXTENTS_MAX} make a disk",
            descriptor.extents.len()
        )));
    }
    for extent in &descriptor.extents {
        let find = |name: &str| find(neighbours, name);
        match &extent.kind {
            _ if !extent.accessible => {
                no_access += extent.sectors;
                disk.push(extent.sectors, Map::Zero)?;
            }
            Kind::Zero => disk.push(extent.sectors, Map::Zero)?,
            Kind::Sparse { name } => {
                disk.push_sparse(find(name)?, Some(extent.sectors)).map_err(|e| e.context(name))?;
            }
            Kind::Flat { name, first } => {
                let number = disk.next_file();
                let number = match flat.entry(name.as_str()) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        disk.files.push(find(name)?);
                        *new.insert(number)
                    }
                };
                disk.push_flat(name, extent.sectors, number, first * SECTOR)?;
            }
        }
    }
    if no_access > 0 {
        disk.notes.push(format!("{no_access} sectors of the disk are marked NOACCESS and read as zeros"));
    }
    disk.finish(descriptor, "custom")
}

/// Open the sparse extent `file` by itself; `embedded` is the descriptor in it.
fn open_extent(file: Arc<dyn ReadAt>, embedded: &Descriptor) -> Result<Opened> {
    let mut disk = Builder::default();
    // It names itself, perhaps by a name that it no longer has.
    let sectors = match embedded.extents.as_slice() {
        [] => None,
        [only] => Some(only.sectors),
        several => {
            return Err(Error::unsupported(format!(
                "a VMDK whose embedded descriptor has {} extents: only that of a single extent can be embedded",
                several.len()
            )));
        }
    };
    let kind = disk.push_sparse(file, sectors)?;
    if sectors.is_none() {
        disk.notes.push(
            "an extent without its descriptor: if it is a part of a disk, or was made on another, the rest is missing"
                .to_owned(),
        );
    }
    disk.finish(embedded, kind)
}

/// The descriptor in `size` bytes at `at`.
fn read_descriptor(file: &dyn ReadAt, at: u64, size: u64) -> Result<Descriptor> {
    let mut bytes = vec![0; usize::try_from(size.min(descriptor::SIZE_MAX)).unwrap_or(0)];
    let n = file.read_at(&mut bytes, at)?;
    Descriptor::parse(bytes.get(..n).unwrap_or_default())
}

/// The descriptor embedded in a hosted extent. There is room for one in extents that have none, too.
fn read_embedded(file: &dyn ReadAt, header: &hosted::Header) -> Result<Option<Descriptor>> {
    let (sector, sectors) = header.descriptor;
    let (at, size) = (sector.saturating_mul(SECTOR), sectors.saturating_mul(SECTOR));
    let head: [u8; SECTOR as usize] = hosted::read(file, at)?;
    if sector == 0 || sectors == 0 || head.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    if !is_descriptor(&head, size) {
        return Err(Error::damaged(format!(
            "the VMDK's embedded descriptor at byte {at} is damaged: its parent, if it has one, cannot be told"
        )));
    }
    read_descriptor(file, at, size).map(Some)
}

fn find(neighbours: &dyn Neighbours, name: &str) -> Result<Arc<dyn ReadAt>> {
    let found = base_name(name).map_or(Ok(None), |name| neighbours.find(name))?;
    found.ok_or_else(|| {
        Error::new(ErrorKind::Missing, format!("the extent {name:?} of the VMDK is not in the same folder or backup"))
    })
}

/// A disk that is being put together.
#[derive(Default)]
struct Builder {
    files: Vec<Arc<dyn ReadAt>>,
    extents: Vec<Extent>,
    /// Sectors so far.
    sectors: u64,
    /// Bytes of the largest grain.
    grain: Option<u64>,
    /// What an extent says by itself that it was made on.
    parent: Option<String>,
    notes: Vec<String>,
}

impl Builder {
    /// The number of the next file.
    fn next_file(&self) -> u32 {
        // There are no more than extents.
        u32::try_from(self.files.len()).unwrap_or(u32::MAX)
    }

    fn push(&mut self, sectors: u64, map: Map) -> Result<()> {
        let start = self.sectors * SECTOR;
        let all = self.sectors.checked_add(sectors).filter(|all| *all <= SECTORS_MAX);
        self.sectors = all.ok_or_else(|| {
            Error::damaged(format!(
                "the VMDK's extents have more than {SECTORS_MAX} sectors: its descriptor is damaged"
            ))
        })?;
        if sectors > 0 {
            self.extents.push(Extent { start, end: self.sectors * SECTOR, map });
        }
        Ok(())
    }

    fn push_flat(&mut self, name: &str, sectors: u64, file: u32, offset: u64) -> Result<()> {
        let size = self.files.get(file as usize).map_or(0, ReadAt::size);
        let missing = offset.saturating_add(sectors * SECTOR).saturating_sub(size);
        if missing > 0 {
            self.notes.push(format!("{name} ends {missing} bytes early: it was cut off"));
        }
        self.push(sectors, Map::Flat { file, offset })
    }

    /// Add the sparse extent `file`, of which the disk has `sectors` (without a descriptor: all). What it is, in the
    /// format's words.
    fn push_sparse(&mut self, file: Arc<dyn ReadAt>, sectors: Option<u64>) -> Result<&'static str> {
        let magic: [u8; 8] = hosted::read(file.as_ref(), 0)?;
        let number = self.next_file();
        let (kind, capacity, unclean, map) = if magic.starts_with(&hosted::MAGIC) {
            let header = hosted::Header::read(file.as_ref(), 0)?;
            let kind = if header.compressed { "streamOptimized" } else { "monolithicSparse" };
            let map = header.map(file.as_ref(), number, &mut self.notes)?;
            (kind, header.capacity, header.unclean, Map::Hosted(map))
        } else if magic.starts_with(&cowd::MAGIC) {
            let header = cowd::Header::read(file.as_ref())?;
            self.parent.clone_from(&header.parent);
            ("vmfsSparse", header.capacity, header.unclean, Map::Cowd(header.map(number)))
        } else if magic == sesparse::MAGIC {
            let header = sesparse::Header::read(file.as_ref())?;
            ("seSparse", header.capacity, false, Map::SeSparse(header.map(number)))
        } else {
            return Err(Error::damaged("this is no sparse VMDK extent: it has none of their magic numbers"));
        };
        if unclean {
            self.notes.push("it was not closed properly: the last writes may be missing".to_owned());
        }
        // The capacity may have been rounded up to whole grains.
        let sectors = sectors.unwrap_or(capacity);
        if sectors > capacity {
            return Err(Error::damaged(format!(
                "the VMDK's descriptor says that the extent has {sectors} sectors, and the extent says {capacity}"
            )));
        }
        self.files.push(file);
        self.grain = self.grain.max(map.grain_size());
        self.push(sectors, map)?;
        Ok(kind)
    }

    fn finish(self, descriptor: &Descriptor, kind: &str) -> Result<Opened> {
        let size = self.sectors * SECTOR;
        let variant = descriptor.create_type.as_deref().unwrap_or(kind);
        let mut info = Info::new(Format::Vmdk, variant, size);
        info.cluster_size = self.grain;
        info.identity = descriptor.cid.map(|cid| format!("{cid:08x}"));
        let described = descriptor.parent()?.map(|(name, cid)| (name.to_owned(), Some(format!("{cid:08x}"))));
        info.parent = described.or(self.parent.map(|name| (name, None))).map(|(name, identity)| Parent {
            names: vec![name],
            format: Some(Format::Vmdk),
            identity,
        });
        info.parts = descriptor.extents.iter().filter_map(|e| e.kind.file()).map(str::to_owned).collect();
        info.notes = self.notes;
        if let Some(name) = &descriptor.change_track {
            info.notes.push(format!("its host tracks changed blocks in {name}"));
        }
        let mut files = self.files.iter().cloned();
        let first = files.next().unwrap_or_else(|| Arc::new(Vec::new()));
        let tables = Tables::of_files(first, files.collect(), TABLES_MAX);
        Ok(Opened { layer: Arc::new(Vmdk { size, extents: self.extents, files: self.files, tables }), info })
    }
}

/// A disk as a row of extents.
struct Vmdk {
    size: u64,
    /// By ascending offset, without gaps.
    extents: Vec<Extent>,
    files: Vec<Arc<dyn ReadAt>>,
    tables: Tables,
}

/// Bytes `start..end` of a disk.
struct Extent {
    start: u64,
    end: u64,
    map: Map,
}

/// Where the bytes of an extent are.
enum Map {
    Zero,
    Flat { file: u32, offset: u64 },
    Hosted(hosted::Hosted),
    Cowd(cowd::Cowd),
    SeSparse(sesparse::SeSparse),
}

impl Map {
    fn grain_size(&self) -> Option<u64> {
        use grains::Grains;
        match self {
            Self::Zero | Self::Flat { .. } => None,
            Self::Hosted(map) => Some(map.grain_size()),
            Self::Cowd(map) => Some(map.grain_size()),
            Self::SeSparse(map) => Some(map.grain_size()),
        }
    }
}

impl Layer for Vmdk {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        let number = self.extents.partition_point(|extent| extent.end <= offset);
        let Some(extent) = self.extents.get(number) else {
            return Err(Error::invalid(format!("byte {offset} of a disk of {} bytes", self.size)));
        };
        let (size, at) = (extent.end - extent.start, offset - extent.start);
        let tables = &self.tables;
        let mut run = match &extent.map {
            Map::Zero => Run { len: size - at, place: Place::Zero },
            Map::Flat { file, offset } => {
                Run { len: size - at, place: Place::Stored { file: *file, offset: offset + at } }
            }
            Map::Hosted(map) => grains::run_at(map, tables, size, at, limit)?,
            Map::Cowd(map) => grains::run_at(map, tables, size, at, limit)?,
            Map::SeSparse(map) => grains::run_at(map, tables, size, at, limit)?,
        };
        if let Place::Packed { unit, .. } = &mut run.place {
            *unit |= (number as u64) << UNIT_EXTENT;
        }
        Ok(run)
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
    }

    fn unpack(&self, unit: u64, out: &mut Vec<u8>) -> Result<()> {
        let nothing = || Error::damaged("the VMDK has nothing packed there");
        let extent = usize::try_from(unit >> UNIT_EXTENT).ok().and_then(|number| self.extents.get(number));
        let Some(Extent { map: Map::Hosted(map), .. }) = extent else { return Err(nothing()) };
        let file = self.files.get(grains::Grains::file(map) as usize).ok_or_else(nothing)?;
        map.unpack(&self.tables, file.as_ref(), unit & ((1 << UNIT_EXTENT) - 1), out)
    }
}
