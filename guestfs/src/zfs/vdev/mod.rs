//! The devices of a pool as its configuration arranges them: a list of top-level vdevs, over which blocks are spread, each
//! a device, a mirror or a RAID-Z group.
//!
//! A device that is being replaced, and a spare that stands in for one, are mirrors of the old and the new.

mod galois;
mod leaf;
mod raidz;
mod removed;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, OnceLock},
};

use blockdev::{BlockDevice, Error, ErrorKind, Result};

pub use self::removed::{ENTRY, Mapping};
use self::{leaf::Leaf, raidz::Raidz, removed::Piece};
use super::nvlist::{NvList, Value};

/// How deep vdevs may lie in each other: top-level, spare, replacing, leaf.
const DEPTH_MAX: u32 = 8;

/// Top-level vdevs there may be; a number beyond is taken for damage.
const TOPS_MAX: u64 = 1 << 16;

/// Sectors of vdevs have from 512 bytes to 64 KiB.
const SECTOR_SHIFTS: std::ops::RangeInclusive<u64> = 9..=16;

/// How often a block may have been moved from vdevs that were removed.
const REMOVED_DEPTH_MAX: u32 = 8;

/// Where a block is.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Number of the top-level vdev.
    pub vdev: u32,
    /// Byte of its space.
    pub offset: u64,
    /// The transaction group in which it was written there.
    pub born: u64,
}

/// The devices that are at hand, by their GUID.
pub type Devices = BTreeMap<u64, Arc<dyn BlockDevice>>;

/// The top-level vdevs of a pool, by their number.
pub struct Vdevs {
    tops: BTreeMap<u32, Top>,
}

/// A top-level vdev.
struct Top {
    layout: Layout,
    /// What it is called in messages.
    name: String,
    size: u64,
    sector_shift: u32,
    /// Whether only intent logs lie on it.
    is_log: bool,
}

enum Layout {
    /// The same on each.
    Mirror(Vec<Leaf>),
    Raidz(Raidz),
    /// It was removed from the pool: where its blocks went, once that was read; and the object that says it.
    Removed(OnceLock<Mapping>, u64),
    /// Nothing is read from it, and why.
    Unreadable(ErrorKind, String),
}

impl Vdevs {
    /// Those that `configs`, the configurations of top-level vdevs, arrange.
    ///
    /// # Errors
    ///
    /// `Damaged` when they contradict themselves.
    pub fn new<'a>(configs: impl Iterator<Item = &'a NvList>, devices: &Devices) -> Result<Self> {
        let mut tops = BTreeMap::new();
        for config in configs {
            let number = config.number("id").filter(|id| *id < TOPS_MAX);
            let number = number.ok_or_else(|| Error::damaged("the pool's configuration numbers its vdevs wrongly"))?;
            // The first is the most recent.
            if let Entry::Vacant(place) = tops.entry(number as u32) {
                place.insert(Top::new(config, number, devices)?);
            }
        }
        Ok(Self { tops })
    }

    /// Fills `buf` with the block that vdev `number` has at `offset`, was written in transaction group `born`, and is
    /// accepted by `is_right`, out of all copies and reconstructions there are.
    ///
    /// # Errors
    ///
    /// `Missing` when a device is needed that is not at hand; `Damaged` when nothing is accepted.
    pub fn read(&self, place: Place, buf: &mut [u8], is_right: &mut dyn FnMut(&[u8]) -> Result<bool>) -> Result<()> {
        self.read_within(place, buf, is_right, 0)
    }

    fn read_within(
        &self,
        place: Place,
        buf: &mut [u8],
        is_right: &mut dyn FnMut(&[u8]) -> Result<bool>,
        depth: u32,
    ) -> Result<()> {
        let Place { vdev, offset, born } = place;
        let top = self.tops.get(&vdev).ok_or_else(|| {
            Error::new(ErrorKind::Missing, format!("no device of vdev {vdev} is at hand: open the pool with them all"))
        })?;
        let placed = |e: Error| e.context(format!("byte {offset} of {}", top.name));
        match &top.layout {
            Layout::Mirror(leaves) => mirrored(leaves, offset, buf, is_right).map_err(placed),
            Layout::Raidz(group) => group.read(offset, born, buf, is_right).map_err(placed),
            Layout::Removed(mapping, _) => {
                let mapping = mapping.get().filter(|_| depth < REMOVED_DEPTH_MAX);
                let mapping = mapping.ok_or_else(|| {
                    Error::damaged(format!("vdev {vdev} was removed, and where its blocks went cannot be read"))
                })?;
                self.read_moved(&mapping.pieces(offset, buf.len()).map_err(placed)?, born, buf, is_right, depth)
            }
            Layout::Unreadable(kind, why) => Err(Error::new(*kind, why.clone())),
        }
    }

    /// Fills `buf` from `pieces`. Only the whole has a checksum: of each piece, the first copies are tried, then the second.
    fn read_moved(
        &self,
        pieces: &[Piece],
        born: u64,
        buf: &mut [u8],
        is_right: &mut dyn FnMut(&[u8]) -> Result<bool>,
        depth: u32,
    ) -> Result<()> {
        const COPIES: usize = 3;
        let place = |piece: &Piece| Place { vdev: piece.vdev, offset: piece.offset, born };
        if let [only] = pieces {
            return self.read_within(place(only), buf, is_right, depth + 1);
        }
        for copy in 0..COPIES {
            let mut rest = &mut *buf;
            for piece in pieces {
                let Some((part, tail)) = rest.split_at_mut_checked(piece.len) else { break };
                let mut seen = 0;
                let mut this_copy = |_: &[u8]| {
                    seen += 1;
                    Ok(seen > copy)
                };
                // The last copy there is stays in the buffer when there are fewer.
                let read = self.read_within(place(piece), part, &mut this_copy, depth + 1);
                if copy == 0 {
                    read?;
                }
                rest = tail;
            }
            if is_right(buf)? {
                return Ok(());
            }
        }
        Err(Error::damaged("a block that was moved from a removed vdev has a wrong checksum"))
    }

    /// The removed vdevs of which it is not known where their blocks went, and the objects that say it.
    pub fn unmapped(&self) -> Vec<(u32, u64)> {
        let unmapped = |(number, top): (&u32, &Top)| match &top.layout {
            Layout::Removed(mapping, object) if mapping.get().is_none() => Some((*number, *object)),
            _ => None,
        };
        self.tops.iter().filter_map(unmapped).collect()
    }

    /// From now on it is known where the blocks of the removed vdev `number` went.
    pub fn set_mapping(&self, number: u32, mapping: Mapping) {
        if let Some(Top { layout: Layout::Removed(place, _), .. }) = self.tops.get(&number) {
            place.get_or_init(|| mapping);
        }
    }

    /// Bytes for blocks, parity taken off.
    pub fn size(&self) -> u64 {
        let of = |top: &Top| match &top.layout {
            _ if top.is_log => 0,
            Layout::Raidz(group) => group.usable(top.size),
            Layout::Mirror(_) => top.size,
            Layout::Removed(..) | Layout::Unreadable(..) => 0,
        };
        self.tops.values().map(of).fold(0, u64::saturating_add)
    }

    /// Bytes of the smallest unit of allocation.
    pub fn sector_size(&self) -> u32 {
        self.tops.values().map(|top| 1 << top.sector_shift).min().unwrap_or(512)
    }

    /// The names of the devices that are not at hand, those of logs left out.
    pub fn missing(&self) -> Vec<&str> {
        let mut missing = Vec::new();
        for top in self.tops.values().filter(|top| !top.is_log) {
            match &top.layout {
                Layout::Mirror(leaves) => missing.extend(absent(leaves)),
                Layout::Raidz(group) => missing.extend(group.children().flat_map(|leaves| absent(leaves))),
                Layout::Removed(..) | Layout::Unreadable(..) => {}
            }
        }
        missing
    }
}

fn absent(leaves: &[Leaf]) -> impl Iterator<Item = &str> {
    leaves.iter().filter(|leaf| leaf.device.is_none()).map(|leaf| leaf.name.as_str())
}

/// Why none of several copies can be read: that a device is missing tells most, since it can be brought.
#[derive(Default)]
pub struct Failed(Option<Error>);

impl Failed {
    /// Adds why one of them cannot.
    pub fn add(&mut self, error: Error) {
        if self.0.is_none() || error.kind() == ErrorKind::Missing {
            self.0 = Some(error);
        }
    }

    /// The error; `Damaged` with `otherwise` when there were no copies.
    pub fn or(self, otherwise: &'static str) -> Error {
        self.0.unwrap_or_else(|| Error::damaged(otherwise))
    }
}

/// The first copy that can be read and is accepted.
fn mirrored(
    leaves: &[Leaf],
    offset: u64,
    buf: &mut [u8],
    is_right: &mut dyn FnMut(&[u8]) -> Result<bool>,
) -> Result<()> {
    let mut failed = Failed::default();
    for leaf in leaves {
        match leaf.read(offset, buf) {
            Ok(()) if is_right(buf)? => return Ok(()),
            Ok(()) => failed.add(Error::damaged("a block has a wrong checksum on every device")),
            Err(e) => failed.add(e),
        }
    }
    Err(failed.or("a mirror of no devices"))
}

impl Top {
    fn new(config: &NvList, number: u64, devices: &Devices) -> Result<Self> {
        let kind = config.text("type").unwrap_or_default();
        let sector_shift = config.number("ashift").unwrap_or(9);
        let is_log = config.number("is_log") == Some(1);
        let name = match kind.as_str() {
            "disk" | "file" => leaf_name(config),
            _ => format!("{kind}-{number}"),
        };
        let layout = match kind.as_str() {
            "raidz" => {
                let children = config.lists("children").iter();
                let children = children.map(|child| leaves(child, devices, 0)).collect::<Result<_>>()?;
                if config.get("raidz_expanding").is_some() {
                    let why = format!("{name} was being widened by a device when it was copied: this cannot be read");
                    Layout::Unreadable(ErrorKind::Unsupported, why)
                } else if SECTOR_SHIFTS.contains(&sector_shift) {
                    let widened = match config.get("raidz_expand_txgs") {
                        Some(Value::Numbers(groups)) => groups.clone(),
                        _ => Vec::new(),
                    };
                    let parity = config.number("nparity").unwrap_or(1);
                    Layout::Raidz(Raidz::new(children, parity, sector_shift as u32, widened)?)
                } else {
                    return Err(Error::damaged(format!("{name} has sectors of 2^{sector_shift} bytes")));
                }
            }
            "disk" | "file" | "mirror" | "replacing" | "spare" => Layout::Mirror(leaves(config, devices, 0)?),
            "draid" => {
                let why = format!("{name} is a dRAID, which cannot be read yet");
                Layout::Unreadable(ErrorKind::Unsupported, why)
            }
            "indirect" => Layout::Removed(OnceLock::new(), config.number("com.delphix:indirect_object").unwrap_or(0)),
            "hole" | "missing" => Layout::Unreadable(
                ErrorKind::Damaged,
                format!("a block is on vdev {number}, which is not there any more"),
            ),
            other => {
                return Err(Error::unsupported(format!("the pool has a vdev of type {other:?}, which is not known")));
            }
        };
        let size = config.number("asize").unwrap_or(0);
        let sector_shift = sector_shift.clamp(*SECTOR_SHIFTS.start(), *SECTOR_SHIFTS.end()) as u32;
        Ok(Self { layout, name, size, sector_shift, is_log })
    }
}

/// The devices of which each has the same as `config`: itself or, below a mirror, its children's.
fn leaves(config: &NvList, devices: &Devices, depth: u32) -> Result<Vec<Leaf>> {
    if depth > DEPTH_MAX {
        return Err(Error::damaged("the pool's configuration has vdevs too deep in each other"));
    }
    let kind = config.text("type").unwrap_or_default();
    match kind.as_str() {
        "mirror" | "replacing" | "spare" => {
            let children = config.lists("children").iter();
            let of_each = children.map(|child| leaves(child, devices, depth + 1)).collect::<Result<Vec<_>>>()?;
            Ok(of_each.into_iter().flatten().collect())
        }
        _ => {
            let device = config.number("guid").and_then(|guid| devices.get(&guid)).map(Arc::clone);
            Ok(vec![Leaf { device, name: leaf_name(config) }])
        }
    }
}

/// What a device was called on its machine.
fn leaf_name(config: &NvList) -> String {
    let guid = || format!("device {}", config.number("guid").unwrap_or(0));
    config.text("path").unwrap_or_else(guid)
}
