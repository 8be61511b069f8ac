//! From devices to a pool: which of them belong to it, how they are arranged, and the state at the last transaction group
//! that can be read.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use blockdev::{BlockDevice, Error, ErrorKind, Result};

use super::{
    block_pointer::BlockPointer,
    dataset::{Dataset, State},
    dsl::Mos,
    features,
    label::{self, Slot},
    nvlist::NvList,
    pool::Pool,
    vdev::{Devices, Vdevs},
};

/// Transaction groups that are tried, from the last on: a ring has up to 128.
const GROUPS_MAX: usize = 128;

/// State of a pool that was destroyed.
const DESTROYED: u64 = 2;

/// A pool that was opened.
pub struct Imported {
    /// Its metadata.
    pub mos: Mos,
    /// The topmost directory of datasets.
    pub root: u64,
    /// The transaction group that is shown.
    pub group: u64,
    /// Its name.
    pub name: Option<String>,
    /// Its GUID.
    pub guid: u64,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// Devices of one pool.
struct Members {
    guid: u64,
    /// The configurations in their labels, the most recent first.
    configs: Vec<NvList>,
    devices: Devices,
    notes: Vec<String>,
}

/// Opens the pool that the first device belongs to which has a label.
///
/// # Errors
///
/// When there is none, it has features that are not known, or it cannot be read in any state that it had lately.
pub fn import(devices: &[Arc<dyn BlockDevice>]) -> Result<Imported> {
    let Members { guid, configs, devices, mut notes } = members(devices)?;
    let newest = configs.first().ok_or_else(|| Error::damaged("no device has a sound ZFS label"))?;
    features::check_label(newest)?;
    if newest.number("state") == Some(DESTROYED) {
        notes.push("the guest destroyed this pool".to_owned());
    }
    let groups = slots(&configs, &devices)?;
    let (mos, used) = newest_readable(groups, &|root| state(root, &configs, &devices))?;
    let (group, last) = used;
    if group != last {
        notes.push(format!(
            "the last state of the pool (transaction group {last}) is damaged: shown is an earlier one ({group})"
        ));
    }
    for name in mos.pool().vdevs().missing() {
        notes.push(format!("{name} is not at hand: its copies are made from other devices where there are any"));
    }
    let root = mos.root()?;
    Ok(Imported { mos, root, group, name: newest.text("name"), guid, notes })
}

/// Which of `devices` belong to the pool of the first.
fn members(devices: &[Arc<dyn BlockDevice>]) -> Result<Members> {
    let mut members = Members { guid: 0, configs: Vec::new(), devices: Devices::new(), notes: Vec::new() };
    let mut failed = None;
    for (index, device) in devices.iter().enumerate() {
        let config = match label::config(device.as_ref()) {
            Ok(Some(config)) => config,
            Ok(None) => {
                members.notes.push(format!("device {index} has no sound ZFS label and is left out"));
                continue;
            }
            Err(e) => {
                members.notes.push(format!("device {index} cannot be read and is left out: {e}"));
                failed = Some(e);
                continue;
            }
        };
        let (Some(pool), Some(guid)) = (config.number("pool_guid"), config.number("guid")) else {
            members.notes.push(format!("device {index} belongs to no pool and is left out"));
            continue;
        };
        if members.configs.is_empty() {
            members.guid = pool;
        }
        if pool != members.guid {
            members.notes.push(format!("device {index} belongs to another pool and is left out"));
            continue;
        }
        match members.devices.entry(guid) {
            Entry::Occupied(_) => members.notes.push(format!("device {index} is a copy of another and is left out")),
            Entry::Vacant(place) => {
                place.insert(Arc::clone(device));
                members.configs.push(config);
            }
        }
    }
    if let (true, Some(e)) = (members.configs.is_empty(), failed) {
        return Err(e);
    }
    members.configs.sort_by_key(|config| std::cmp::Reverse(config.number("txg")));
    Ok(members)
}

/// What claims to be an uberblock on any device, by transaction group and time.
fn slots(configs: &[NvList], devices: &Devices) -> Result<BTreeMap<(u64, u64), Vec<Slot>>> {
    let mut groups: BTreeMap<(u64, u64), Vec<Slot>> = BTreeMap::new();
    for config in configs {
        let Some(device) = config.number("guid").and_then(|guid| devices.get(&guid)) else { continue };
        let sector_shift = config.list("vdev_tree").and_then(|top| top.number("ashift")).unwrap_or(9);
        for slot in label::slots(device, sector_shift)? {
            groups.entry(slot.claims).or_default().push(slot);
        }
    }
    Ok(groups)
}

/// The metadata of the last state whose topmost dataset can be read, or else of the last that can be read at all; with
/// its transaction group and that of the last state there was.
fn newest_readable(
    groups: BTreeMap<(u64, u64), Vec<Slot>>,
    state: &dyn Fn(&BlockPointer) -> Result<(Mos, bool)>,
) -> Result<(Mos, (u64, u64))> {
    let mut newest = None;
    let mut half: Option<(Mos, u64)> = None;
    let mut failed: Option<Error> = None;
    for ((group, _), copies) in groups.into_iter().rev().take(GROUPS_MAX) {
        // A slot may be torn, and a claim be made up: only a sound one counts.
        let Some(root) = sound(&copies) else { continue };
        let newest = *newest.get_or_insert(group);
        match state(&root) {
            Ok((mos, true)) => return Ok((mos, (group, newest))),
            Ok((mos, false)) => half = half.or(Some((mos, group))),
            // Earlier states are on the same devices, and were written by the same system.
            Err(e) if matches!(e.kind(), ErrorKind::Missing | ErrorKind::Unsupported) => {
                failed = Some(e);
                break;
            }
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    match (half, newest, failed) {
        (Some((mos, group)), Some(newest), _) => Ok((mos, (group, newest))),
        (_, _, Some(e)) => Err(e.context("the pool cannot be read")),
        _ => Err(Error::damaged("no device of the pool has a sound uberblock")),
    }
}

/// Where the first sound uberblock points.
fn sound(copies: &[Slot]) -> Option<BlockPointer> {
    copies.iter().find_map(|slot| slot.root().ok().flatten())
}

/// The metadata at `pointer`, and whether the topmost dataset can be read.
fn state(pointer: &BlockPointer, configs: &[NvList], devices: &Devices) -> Result<(Mos, bool)> {
    let vdevs = Vdevs::new(configs.iter().filter_map(|config| config.list("vdev_tree")), devices)?;
    let mut mos = Mos::open(&Arc::new(Pool::new(vdevs)), pointer)?;
    features::check_pool(&mos)?;
    // A label knows its own top-level vdev only, and may be older or newer. The metadata, which is on several of them, has
    // the whole configuration.
    if let Ok(config) = mos.config()
        && let Some(tree) = config.list("vdev_tree")
    {
        let pool = Arc::new(Pool::new(Vdevs::new(tree.lists("children").iter(), devices)?));
        mos = Mos::open(&pool, pointer)?;
        mos.map_removed();
    }
    let root = mos.directory(mos.root()?)?;
    let dataset = Dataset::open(&mos, root.head)?;
    let readable = match dataset.state {
        State::Files(files) => files.metadata(files.root()).is_ok(),
        State::Volume(_) => true,
        State::Unreadable(kind, _) => matches!(kind, ErrorKind::Locked | ErrorKind::Unsupported | ErrorKind::Missing),
    };
    Ok((mos, readable))
}
