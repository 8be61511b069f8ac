//! The devices of a pool as its configuration arranges them: a list of top-level vdevs, over which blocks are spread, each
//! a device, a mirror or a RAID-Z group.
//!
//! A device that is being replaced, and a spare that stands in for one, are mirrors of the old and the new.

mod galois;
mod leaf;
mod raidz;

use std::{collections::BTreeMap, sync::Arc};

use blockdev::{BlockDevice, Error, ErrorKind, Result};

pub use self::leaf::Leaf;
use self::raidz::Raidz;
use super::nvlist::NvList;

/// How deep vdevs may lie in each other: top-level, spare, replacing, leaf.
const DEPTH_MAX: u32 = 8;

/// Top-level vdevs there may be; a number beyond is taken for damage.
const TOPS_MAX: u64 = 1 << 16;

/// Sectors of vdevs have from 512 bytes to 64 KiB.
const SECTOR_SHIFTS: std::ops::RangeInclusive<u64> = 9..=16;

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
            if let std::collections::btree_map::Entry::Vacant(place) = tops.entry(number as u32) {
                place.insert(Top::new(config, number, devices)?);
            }
        }
        Ok(Self { tops })
    }

    /// Fills `buf` with what vdev `number` has at `offset` and `is_right` accepts, out of all copies and reconstructions
    /// there are.
    ///
    /// # Errors
    ///
    /// `Missing` when a device is needed that is not at hand; `Damaged` when nothing is accepted.
    pub fn read(
        &self,
        number: u32,
        offset: u64,
        buf: &mut [u8],
        is_right: &mut dyn FnMut(&[u8]) -> Result<bool>,
    ) -> Result<()> {
        let top = self.tops.get(&number).ok_or_else(|| {
            Error::new(
                ErrorKind::Missing,
                format!("no device of vdev {number} is at hand: open the pool with them all"),
            )
        })?;
        let placed = |e: Error| e.context(format!("byte {offset} of {}", top.name));
        match &top.layout {
            Layout::Mirror(leaves) => mirrored(leaves, offset, buf, is_right).map_err(placed),
            Layout::Raidz(group) => group.read(offset, buf, is_right).map_err(placed),
            Layout::Unreadable(kind, why) => Err(Error::new(*kind, why.clone())),
        }
    }

    /// Bytes for blocks, parity taken off.
    pub fn size(&self) -> u64 {
        let of = |top: &Top| match &top.layout {
            _ if top.is_log => 0,
            Layout::Raidz(group) => group.usable(top.size),
            Layout::Mirror(_) | Layout::Unreadable(..) => top.size,
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
                Layout::Raidz(group) => missing.extend(group.children().flat_map(absent)),
                Layout::Unreadable(..) => {}
            }
        }
        missing
    }
}

fn absent(leaves: &Vec<Leaf>) -> impl Iterator<Item = &str> {
    leaves.iter().filter(|leaf| leaf.device.is_none()).map(|leaf| leaf.name.as_str())
}

/// The first copy that can be read and is accepted.
fn mirrored(
    leaves: &[Leaf],
    offset: u64,
    buf: &mut [u8],
    is_right: &mut dyn FnMut(&[u8]) -> Result<bool>,
) -> Result<()> {
    let mut failed = None;
    for leaf in leaves {
        match leaf.read(offset, buf) {
            Ok(()) if is_right(buf)? => return Ok(()),
            Ok(()) => failed = Some(Error::damaged("a block has a wrong checksum on every device")),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    Err(failed.unwrap_or_else(|| Error::damaged("a mirror of no devices")))
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
                if config.get("raidz_expand_txgs").is_some() || config.get("raidz_expanding").is_some() {
                    let why = format!("{name} was widened by a device (raidz expansion), which cannot be read yet");
                    Layout::Unreadable(ErrorKind::Unsupported, why)
                } else if SECTOR_SHIFTS.contains(&sector_shift) {
                    Layout::Raidz(Raidz::new(children, config.number("nparity").unwrap_or(1), sector_shift as u32)?)
                } else {
                    return Err(Error::damaged(format!("{name} has sectors of 2^{sector_shift} bytes")));
                }
            }
            "disk" | "file" | "mirror" | "replacing" | "spare" => Layout::Mirror(leaves(config, devices, 0)?),
            "draid" => {
                let why = format!("{name} is a dRAID, which cannot be read yet");
                Layout::Unreadable(ErrorKind::Unsupported, why)
            }
            "indirect" => {
                let why =
                    format!("vdev {number} was removed from the pool, and its blocks moved: this cannot be read yet");
                Layout::Unreadable(ErrorKind::Unsupported, why)
            }
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
