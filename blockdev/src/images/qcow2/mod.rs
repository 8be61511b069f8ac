//! qcow2, QEMU's image format, versions 2 and 3 (QEMU's `docs/interop/qcow2`; all numbers are big-endian).
//!
//! A qcow2 file is made of *clusters*. Guest clusters are found through two levels of tables: the L1 table, whose
//! place the header tells, names L2 tables of one cluster each, whose entries name clusters of the file. A guest
//! cluster is a cluster of the file, a compressed piece of it, zeros, or not there: then the backing file has it.
//! An internal snapshot is an L1 table of its own. Reading needs no reference counts, so that an image that was not
//! closed properly reads as well as any other.
//!
//! * `header`: header, feature bits and header extensions;
//! * `backing`: names of other files, which may be anything but names;
//! * `map`: guest offsets to places, which is the [`Layer`](super::layer::Layer);
//! * `unpack`: compressed clusters;
//! * `snapshots`: the snapshot table;
//! * `bitmaps`: bitmaps of changed blocks;
//! * [`arriving`]: a file that comes in front to back.
//!
//! What only accompanies the disk (snapshots, bitmaps) and cannot be read is noted in [`Info::notes`]; it does not keep
//! anybody from reading the disk.

pub mod arriving;
mod backing;
mod bitmaps;
mod header;
mod map;
mod snapshots;
mod unpack;

use std::sync::Arc;

pub use self::bitmaps::DirtyRanges;
use self::{
    bitmaps::Directory,
    header::{Header, Table},
    map::Map,
};
use super::{
    Format, Info, Opened, Snapshot,
    gate::{Neighbours, base_name},
    tables::Tables,
};
use crate::{Error, ErrorKind, ReadAt, Result};

/// Bound of the kept pages of L1 and L2 tables of one image, in bytes: with clusters of 64 KiB they cover 32 GiB.
const TABLES_MAX: u64 = 4 << 20;

/// Bytes of names that are read of a snapshot table or a bitmap directory: far more than any has.
const NAMES_MAX: u64 = 1 << 20;

/// Open an image; an external data file is looked for among `neighbours`.
///
/// # Errors
///
/// When it is no qcow2 image, uses what is not supported (encryption, unknown incompatible features), contradicts
/// itself, or its external data file is missing.
pub fn open(file: Arc<dyn ReadAt>, neighbours: &dyn Neighbours) -> Result<Opened> {
    let tables = Tables::new(file, TABLES_MAX);
    let header = Header::read(&tables)?;
    let info = info(&tables, &header);
    let l1 = header.l1;
    opened(tables, &header, info, l1, neighbours)
}

/// Open the internal snapshot of an image whose identifier is `wanted`, or else whose name is. Where it has no byte,
/// the backing file of the image has it, as for [`open`].
///
/// # Errors
///
/// As [`open`]; `NotFound` when there is no such snapshot.
pub fn open_snapshot(file: Arc<dyn ReadAt>, neighbours: &dyn Neighbours, wanted: &str) -> Result<Opened> {
    let tables = Tables::new(file, TABLES_MAX);
    let header = Header::read(&tables)?;
    let snapshots = snapshots::read(&tables, &header)?;
    let has_id = |s: &&snapshots::Entry| s.about.id == wanted;
    let has_name = |s: &&snapshots::Entry| s.about.name == wanted;
    let found = snapshots.iter().find(has_id).or_else(|| snapshots.iter().find(has_name));
    let Some(snapshot) = found else {
        let there = names(snapshots.iter().map(|s| format!("{} ({:?})", s.about.id, s.about.name)));
        return Err(Error::not_found(format!("there is no snapshot {wanted:?} in the image, only {there}")));
    };
    let mut info = info(&tables, &header);
    info.virtual_size = snapshot.disk_size;
    opened(tables, &header, info, snapshot.l1, neighbours)
}

/// The ranges of the disk that are set in the bitmap `name` of the image in `file`, in ascending order and joined.
///
/// # Errors
///
/// `NotFound` when there is no such bitmap; `Damaged` when it was not stored properly, so that it tells nothing;
/// `Unsupported` when it is no bitmap of changed blocks that is known.
pub fn dirty_ranges(file: Arc<dyn ReadAt>, name: &str) -> Result<DirtyRanges> {
    let tables = Tables::new(file, TABLES_MAX);
    let header = Header::read(&tables)?;
    let directory = Directory::read(&tables, &header)?;
    let Some(entry) = directory.entries.iter().find(|e| e.about.name == name) else {
        let there = names(directory.entries.iter().map(|e| format!("{:?}", e.about.name)));
        return Err(Error::not_found(format!("there is no bitmap {name:?} in the image, only {there}")));
    };
    DirtyRanges::new(tables, &header, entry)
}

/// The part of `info` that an image and its snapshots have in common is the whole but for the size.
fn opened(tables: Tables, header: &Header, info: Info, l1: Table, neighbours: &dyn Neighbours) -> Result<Opened> {
    let data_file = match &header.data_file {
        Some(name) => Some(find_data_file(name, neighbours)?),
        None => None,
    };
    let map = Map::new(tables, header.geometry, l1, info.virtual_size, data_file);
    Ok(Opened { layer: Arc::new(map), info })
}

fn find_data_file(name: &str, neighbours: &dyn Neighbours) -> Result<Arc<dyn ReadAt>> {
    let found = match base_name(name) {
        Some(base) => neighbours.find(base)?,
        None => None,
    };
    found.ok_or_else(|| {
        let message = format!("the data of the disk is in {name:?}, which is not in the same folder or backup");
        Error::new(ErrorKind::Missing, message)
    })
}

fn info(tables: &Tables, header: &Header) -> Info {
    let mut info = Info::new(Format::Qcow2, header.variant(), header.size);
    info.cluster_size = Some(header.geometry.cluster_size());
    info.parent.clone_from(&header.backing);
    info.parts.extend(header.data_file.clone());
    info.notes.clone_from(&header.notes);
    match snapshots::read(tables, header) {
        Ok(snapshots) => info.snapshots = snapshots.into_iter().map(|s| s.about).collect::<Vec<Snapshot>>(),
        Err(e) => info.notes.push(format!("its snapshots cannot be listed: {e}")),
    }
    match Directory::read(tables, header) {
        Ok(directory) => {
            info.notes.extend(directory.note());
            info.bitmaps = directory.entries.into_iter().map(|e| e.about).collect();
        }
        Err(e) => info.notes.push(format!("its bitmaps cannot be listed: {e}")),
    }
    info
}

/// The text of `len` bytes at `at`, of which `left` counts down what may still be read of such texts.
fn text(tables: &Tables, at: u64, len: u64, left: &mut u64) -> Result<String> {
    *left = left.checked_sub(len).ok_or_else(|| {
        Error::new(ErrorKind::Limit, format!("the names in a table at byte {at} are longer than {NAMES_MAX} bytes"))
    })?;
    Ok(String::from_utf8_lossy(&name(tables, at, len)?).into_owned())
}

/// The `len` bytes at `at`; the caller has bounded them.
fn name(tables: &Tables, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let n = tables.file().read_at(&mut bytes, at)?;
    if n < bytes.len() {
        return Err(Error::damaged(format!("a name lies at byte {at}, where the image file ends: it was cut off")));
    }
    Ok(bytes)
}

fn names(names: impl Iterator<Item = String>) -> String {
    /// A message is one line.
    const SHOWN: usize = 8;
    let mut names: Vec<String> = names.take(SHOWN + 1).collect();
    if names.is_empty() {
        return "none at all".to_owned();
    }
    if let Some(more) = names.get_mut(SHOWN) {
        "others".clone_into(more);
    }
    names.join(", ")
}
