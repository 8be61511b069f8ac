//! Logical volumes put together: each segment becomes a part of a [`Map`], over physical volumes or over other logical
//! volumes that are built first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    super::{
        Assembled, Member,
        map::{Map, Target},
        raid::{Area, Layout, MEMBERS_MAX, Parity, ParityPlace, Raid},
    },
    group::{AreaName, Group, Logical, Segment},
    snapshot::{PairsLeft, Snapshot},
    thin::{Pool, Thin},
};
use crate::{
    BlockDevice, Error, ErrorKind, Result,
    fields::{le32, le64, read},
};

/// Logical volumes within logical volumes: a thin volume over a pool over a raid is four.
const DEPTH_MAX: usize = 12;
/// Segments that all volumes of a group may have together.
const SEGMENTS_MAX: usize = 1 << 16;
/// Volumes of a group that are put together, parts of others among them.
const BUILT_MAX: usize = 4096;
/// Volumes of a group that are shown.
const VOLUMES_MAX: usize = 256;
const SECTOR: u64 = 512;
/// Reasons that are told why a volume has gaps.
const GAPS_TOLD: usize = 16;
/// Segments that hold no volume of their own.
const POOLS: [&str; 4] = ["thin-pool", "cache-pool", "vdo-pool", "writecache-pool"];

/// A logical volume that was put together.
#[derive(Clone)]
struct Built {
    device: Arc<dyn BlockDevice>,
    /// Why some of it cannot be read.
    gaps: BTreeSet<String>,
    /// What else is to be told.
    notes: BTreeSet<String>,
    /// The disks that have it.
    disks: BTreeSet<String>,
}

struct Builder<'a> {
    group: &'a Group,
    members: &'a BTreeMap<String, &'a Member>,
    /// An error is kept as its sentence.
    built: BTreeMap<String, std::result::Result<Built, String>>,
    /// Thin pools, and the disks that have their metadata.
    pools: BTreeMap<String, (Arc<Pool>, BTreeSet<String>)>,
    segments: usize,
    /// What snapshots may still hold in memory.
    pairs: Arc<PairsLeft>,
}

/// A volume's map and what is found out while it is made.
#[derive(Default)]
struct Draft {
    map: Map,
    gaps: BTreeSet<String>,
    notes: BTreeSet<String>,
    disks: BTreeSet<String>,
}

/// The logical volumes of `group` that are meant to be seen; `members` are the physical ones by identifier.
pub fn volumes(group: &Group, members: &BTreeMap<String, &Member>) -> Vec<Assembled> {
    let mut builder =
        Builder { group, members, built: BTreeMap::new(), pools: BTreeMap::new(), segments: 0, pairs: Arc::default() };
    // A snapshot's segment is in a volume of its own (`snapshot0`); to the operator it is called like its store.
    let store = |lv: &Logical| lv.segments.first().and_then(|s| s.fields.text("cow_store")).map(str::to_owned);
    let stores: BTreeSet<String> = group.logical.values().filter_map(store).collect();
    let is_pool = |lv: &Logical| lv.segments.iter().any(|s| POOLS.contains(&s.kind.as_str()));
    let shown = group
        .logical
        .iter()
        .filter(|(name, lv)| (lv.is_visible && !is_pool(lv) && !stores.contains(*name)) || store(lv).is_some());
    let mut volumes = Vec::new();
    for (source, lv) in shown.take(VOLUMES_MAX) {
        let name = store(lv).unwrap_or_else(|| source.clone());
        let lv_id = group.logical.get(&name).map_or(&lv.id, |named| &named.id);
        let mut volume = Assembled {
            name: format!("{}-{name}", group.name),
            uuid: Some(lv_id.clone()).filter(|id| !id.is_empty()),
            ..Assembled::default()
        };
        volume.size = lv.extents().unwrap_or(0).saturating_mul(group.extent);
        match builder.volume(source, 0) {
            Ok(built) => {
                volume.disks = built.disks.into_iter().collect();
                volume.notes.extend(built.notes);
                volume.notes.extend(built.gaps);
                volume.device = Some(built.device);
            }
            Err(e) => volume.notes.push(format!("cannot be read: {e}")),
        }
        volumes.push(volume);
    }
    volumes
}

impl Builder<'_> {
    /// The logical volume called `name`.
    fn volume(&mut self, name: &str, depth: usize) -> Result<Built> {
        if let Some(built) = self.built.get(name) {
            return built.clone().map_err(|why| Error::new(ErrorKind::Unsupported, why));
        }
        if depth > DEPTH_MAX {
            return Err(Error::damaged(format!("logical volume {name} is a part of itself")));
        }
        let built = self.build(name, depth);
        self.built.insert(name.to_owned(), built.as_ref().map_err(ToString::to_string).cloned());
        built
    }

    fn build(&mut self, name: &str, depth: usize) -> Result<Built> {
        let group = self.group;
        let lv = group.logical.get(name);
        let lv = lv.ok_or_else(|| Error::damaged(format!("there is no logical volume {name}")))?;
        lv.extents()?;
        self.segments += lv.segments.len();
        if self.segments > SEGMENTS_MAX || self.built.len() >= BUILT_MAX {
            return Err(Error::new(ErrorKind::Limit, "the volume group has too many volumes or segments"));
        }
        let mut draft = Draft::default();
        for segment in &lv.segments {
            let len = segment.extents.checked_mul(group.extent);
            let len = len.ok_or_else(|| Error::damaged("a segment is larger than a disk can be"))?;
            let target = self.target(segment, len, &mut draft, depth)?;
            if let Target::Gone(why) = &target
                && draft.gaps.len() < GAPS_TOLD
            {
                draft.gaps.insert(why.clone());
            }
            draft.map.push(len, target)?;
        }
        Ok(Built { device: draft.map.into_device()?, gaps: draft.gaps, notes: draft.notes, disks: draft.disks })
    }

    fn target(&mut self, segment: &Segment, len: u64, draft: &mut Draft, depth: usize) -> Result<Target> {
        let stripe = segment.fields.number("stripe_size").unwrap_or(0).saturating_mul(SECTOR);
        match segment.kind.as_str() {
            "striped" | "linear" => {
                let mut areas = Vec::new();
                for area in segment.areas("stripes").take(MEMBERS_MAX + 1) {
                    areas.push(self.area(&area, len, draft, depth)?);
                }
                match areas.as_slice() {
                    [Ok(area)] => Ok(Target::Linear(area.clone())),
                    [Err(why)] => Ok(Target::Gone(why.clone())),
                    _ => array(Layout::Stripes { first: 0 }, stripe, areas),
                }
            }
            "mirror" => {
                let mut legs = Vec::new();
                for area in segment.areas("mirrors").take(MEMBERS_MAX + 1) {
                    legs.push(self.area(&area, len, draft, depth)?);
                }
                array(Layout::Mirror, 0, legs)
            }
            "zero" => Ok(Target::Zero),
            "error" => Ok(Target::Gone("a part of the volume is an error segment: it has no bytes".into())),
            "thin" => self.thin(segment, draft, depth),
            "snapshot" => self.snapshot(segment, draft, depth),
            "cache" | "writecache" => self.cached(segment, len, draft, depth),
            kind if kind.starts_with("raid") => self.raid(segment, kind, stripe, draft, depth),
            kind => Err(Error::unsupported(format!("segments of type {kind} are not supported"))),
        }
    }

    /// The area of a physical or logical volume, or why there is none.
    fn area(
        &mut self,
        area: &AreaName<'_>,
        len: u64,
        draft: &mut Draft,
        depth: usize,
    ) -> Result<std::result::Result<Area, String>> {
        let group = self.group;
        let offset = area.extent.checked_mul(group.extent);
        let offset = offset.ok_or_else(|| Error::damaged(format!("an area of {} lies nowhere", area.name)))?;
        let Some(physical) = group.physical.get(area.name) else {
            return self.whole(area.name, offset, len, draft, depth);
        };
        let (id, device) = (&physical.id, &physical.device);
        let Some(member) = self.members.get(id).filter(|_| !physical.is_missing) else {
            return Ok(Err(format!(
                "physical volume {id} (last seen as {device}) is missing: give the disk that has it"
            )));
        };
        draft.disks.extend(member.disks.iter().cloned());
        Ok(Ok(draft.map.area(&member.device, physical.start.saturating_add(offset), len)))
    }

    /// The logical volume `name` as a part of another; one that has gaps is as good as missing.
    fn whole(
        &mut self,
        name: &str,
        offset: u64,
        len: u64,
        draft: &mut Draft,
        depth: usize,
    ) -> Result<std::result::Result<Area, String>> {
        let built = self.volume(name, depth + 1)?;
        draft.notes.extend(built.notes);
        if let Some(why) = built.gaps.into_iter().next() {
            return Ok(Err(why));
        }
        draft.disks.extend(built.disks);
        Ok(Ok(draft.map.area(&built.device, offset, len)))
    }

    /// As [`whole`](Self::whole), where nothing goes without it.
    fn needed(&mut self, segment: &Segment, field: &str, draft: &mut Draft, depth: usize) -> Result<Area> {
        let name = named(segment, field)?;
        self.whole(name, 0, u64::MAX, draft, depth)?.map_err(|why| Error::new(ErrorKind::Missing, why))
    }

    fn raid(&mut self, segment: &Segment, kind: &str, stripe: u64, draft: &mut Draft, depth: usize) -> Result<Target> {
        let layout = |count: u64| match kind {
            "raid0" | "raid0_meta" => Some(Layout::Stripes { first: 0 }),
            "raid1" => Some(Layout::Mirror),
            "raid10" | "raid10_near" => {
                let copies = segment.fields.number("data_copies").unwrap_or(2);
                Some(Layout::Copies { near: copies, far: 1, stride: 1, offset: false }).filter(|_| copies <= count)
            }
            _ => parity(kind).map(Layout::Parity),
        };
        // raid0 lists data volumes only; the others list a volume of metadata before each.
        let names: Vec<(Option<&str>, &str)> = match segment.names("raid0_lvs").collect::<Vec<_>>() {
            data if !data.is_empty() => data.into_iter().map(|d| (None, d)).collect(),
            _ => {
                let all: Vec<_> = segment.names("raids").collect();
                all.chunks_exact(2).filter_map(|p| Some((p.first().copied(), *p.get(1)?))).collect()
            }
        };
        let layout = layout(names.len() as u64);
        let layout = layout.ok_or_else(|| Error::unsupported(format!("segments of type {kind} are not supported")))?;
        let mut members = Vec::new();
        let mut states = Vec::new();
        for (metadata, data) in names.iter().take(MEMBERS_MAX + 1) {
            members.push(self.whole(data, 0, u64::MAX, draft, depth)?);
            states.push(metadata.and_then(|m| self.volume(m, depth + 1).ok()).and_then(|m| MemberState::read(&m)));
        }
        // Members that had failed or were not yet rebuilt, as the newest metadata tells.
        let newest = states.iter().flatten().max_by_key(|s| s.events).map_or(0, |s| s.failed);
        for (i, (member, state)) in members.iter_mut().zip(&states).enumerate() {
            let failed = i < 64 && newest & (1 << i) != 0;
            if failed || state.as_ref().is_some_and(|s| s.is_rebuilding) {
                *member = Err(format!("member {i} of the {kind} was out of date"));
            }
        }
        array(layout, stripe, members)
    }

    fn thin(&mut self, segment: &Segment, draft: &mut Draft, depth: usize) -> Result<Target> {
        let pool_name = named(segment, "thin_pool")?;
        let group = self.group;
        let pool_segment = group.logical.get(pool_name).and_then(|p| p.segments.first());
        let pool_segment = pool_segment.ok_or_else(|| Error::damaged(format!("there is no thin pool {pool_name}")))?;
        let (pool, disks) = if let Some(known) = self.pools.get(pool_name) {
            known.clone()
        } else {
            let metadata = self.volume(named(pool_segment, "metadata")?, depth + 1)?;
            if let Some(why) = metadata.gaps.into_iter().next() {
                return Err(Error::new(ErrorKind::Missing, why));
            }
            let pool = Arc::new(Pool::open(metadata.device).map_err(|e| e.context(format!("thin pool {pool_name}")))?);
            let known = (pool, metadata.disks);
            self.pools.insert(pool_name.to_owned(), known.clone());
            known
        };
        draft.disks.extend(disks);
        if pool.needs_check {
            draft.notes.insert(format!("thin pool {pool_name} was marked to be checked"));
        }
        let data = self.needed(pool_segment, "pool", draft, depth)?;
        let origin = match segment.fields.text("external_origin") {
            Some(_) => Some(self.needed(segment, "external_origin", draft, depth)?),
            None => None,
        };
        let number = segment.fields.number("device_id");
        let number = number.ok_or_else(|| Error::damaged("a thin volume has no device_id"))?;
        Ok(Target::Thin(Thin::open(pool, number, data, origin)?))
    }

    fn snapshot(&mut self, segment: &Segment, draft: &mut Draft, depth: usize) -> Result<Target> {
        let store = self.volume(named(segment, "cow_store")?, depth + 1)?;
        let changed = self.needed(segment, "cow_store", draft, depth)?;
        let origin = self.needed(segment, "origin", draft, depth)?;
        Ok(Target::Snapshot(Snapshot::open(store.device, changed, origin, Arc::clone(&self.pairs))?))
    }

    /// A cached volume. Only when every write goes through to the origin at once is the origin what it should be.
    fn cached(&mut self, segment: &Segment, len: u64, draft: &mut Draft, depth: usize) -> Result<Target> {
        let group = self.group;
        let pool = segment.fields.text("cache_pool").and_then(|p| group.logical.get(p)?.segments.first());
        let mode = [Some(segment), pool].into_iter().flatten().find_map(|s| s.fields.text("cache_mode"));
        if segment.kind != "cache" || !matches!(mode, Some("writethrough" | "passthrough")) {
            let kind = &segment.kind;
            return Err(Error::unsupported(format!(
                "it has a {kind} that may hold writes its origin lacks: detach it (lvconvert --uncache) before the backup"
            )));
        }
        draft.notes.insert("read from the origin of its cache, which every write went through to".into());
        let mut area = self.needed(segment, "origin", draft, depth)?;
        area.len = area.len.min(len);
        Ok(Target::Linear(area))
    }
}

/// What a member of a raid says about all members: the metadata of the kernel's `dm-raid` (`drivers/md/dm-raid.c`).
struct MemberState {
    events: u64,
    /// A bit for each failed member.
    failed: u64,
    is_rebuilding: bool,
}

impl MemberState {
    fn read(metadata: &Built) -> Option<Self> {
        const MAGIC: u32 = 0x6452_6d44;
        let block = read(metadata.device.as_ref(), 0, 512).ok()?;
        let recovered = le64(&block, 32);
        (le32(&block, 0) == MAGIC).then(|| Self {
            events: le64(&block, 16),
            failed: le64(&block, 24),
            is_rebuilding: recovered != u64::MAX,
        })
    }
}

/// The array of `members`, where at least those are there that it needs.
fn array(layout: Layout, chunk: u64, members: Vec<std::result::Result<Area, String>>) -> Result<Target> {
    let why = members.iter().find_map(|m| m.as_ref().err().cloned());
    let raid = Raid::new(layout, chunk, members.into_iter().map(std::result::Result::ok).collect())?;
    Ok(match why {
        Some(why) if !raid.is_readable() => Target::Gone(why),
        _ => Target::Raid(raid),
    })
}

fn named<'a>(segment: &'a Segment, field: &str) -> Result<&'a str> {
    let name = segment.fields.text(field);
    name.ok_or_else(|| Error::damaged(format!("a segment of type {} names no {field}", segment.kind)))
}

/// How LVM2's segment types lay out parity (`lvmraid(7)`).
fn parity(kind: &str) -> Option<Parity> {
    use ParityPlace::{DdfContinue, DdfRestart, First, Last};
    use ParityPlace::{LeftAsymmetric, LeftSymmetric, RightAsymmetric, RightSymmetric};
    let (place, count, q_last) = match kind {
        "raid4" | "raid5_0" => (First, 1, false),
        "raid5_n" => (Last, 1, false),
        "raid5" | "raid5_ls" => (LeftSymmetric, 1, false),
        "raid5_la" => (LeftAsymmetric, 1, false),
        "raid5_rs" => (RightSymmetric, 1, false),
        "raid5_ra" => (RightAsymmetric, 1, false),
        "raid6" | "raid6_zr" => (RightAsymmetric, 2, false),
        "raid6_nr" => (DdfRestart, 2, false),
        "raid6_nc" => (DdfContinue, 2, false),
        "raid6_0_6" => (First, 2, true),
        "raid6_n_6" => (Last, 2, false),
        "raid6_ls_6" => (LeftSymmetric, 2, true),
        "raid6_la_6" => (LeftAsymmetric, 2, true),
        "raid6_rs_6" => (RightSymmetric, 2, true),
        "raid6_ra_6" => (RightAsymmetric, 2, true),
        _ => return None,
    };
    Some(Parity { place, count, q_last })
}
