//! Linux' md arrays: which members make one, which of them count, and what the array reads like.
//!
//! [`superblock`] reads what a member says. A member whose event count lags behind missed writes, and is left out as if
//! it were missing.

mod superblock;

use std::collections::BTreeMap;

pub use superblock::{Role, Superblock, superblock};

use super::{
    Assembled, Member,
    map::{Map, Target},
    raid::{Area, Layout, MEMBERS_MAX, Parity, ParityPlace, Raid},
};
use crate::{Error, ErrorKind, Result};

/// Members further behind than this had been thrown out: md counts one up while it stops an array.
const EVENTS_LAG: u64 = 1;

/// The arrays that the md members among `members` make, and what is odd about them.
pub(super) fn assemble(members: &[Member]) -> (Vec<Assembled>, Vec<String>) {
    let mut notes = Vec::new();
    let mut arrays: BTreeMap<String, Vec<(Superblock, &Member)>> = BTreeMap::new();
    for member in members {
        match superblock(member.device.as_ref()) {
            Ok(Some(sb)) => arrays.entry(sb.array_uuid()).or_default().push((sb, member)),
            Ok(None) => {}
            Err(e) => notes.push(format!("{}: {e}", member.place)),
        }
    }
    let volumes = arrays.into_iter().filter_map(|(uuid, found)| {
        let newest = found.iter().map(|(sb, _)| sb).max_by_key(|sb| sb.events)?.clone();
        let mut volume = Assembled {
            name: newest.name().map_or_else(|| format!("md-{:.8}", newest.array_uuid()), |name| format!("md{name}")),
            uuid: Some(uuid),
            label: newest.name(),
            ..Assembled::default()
        };
        if let Err(e) = build(&newest, &found, &mut volume) {
            volume.notes.push(format!("cannot be read: {e}"));
        }
        Some(volume)
    });
    (volumes.collect(), notes)
}

fn build(newest: &Superblock, found: &[(Superblock, &Member)], volume: &mut Assembled) -> Result<()> {
    if newest.is_reshaping {
        return Err(Error::unsupported("the array was being reshaped: let that end before the backup"));
    }
    let count = usize::try_from(newest.raid_disks).unwrap_or(usize::MAX);
    if count == 0 || count > MEMBERS_MAX {
        return Err(Error::damaged(format!("an array of {count} members")));
    }
    let mut slots: Vec<Option<(&Superblock, &Member)>> = vec![None; count];
    for (sb, member) in found {
        let place = &member.place;
        let Role::Active(role) = newest.role_of(sb) else {
            volume.notes.push(format!("{place} is a spare, a journal or failed: not used"));
            continue;
        };
        if newest.events - sb.events > EVENTS_LAG || sb.is_recovering {
            volume.notes.push(format!("{place} is out of date: not used"));
            continue;
        }
        match slots.get_mut(usize::from(role)) {
            Some(slot @ None) => {
                volume.disks.extend(member.disks.iter().cloned());
                *slot = Some((sb, member));
            }
            Some(Some((_, first))) => volume.notes.push(format!("{place} is a copy of {}: left out", first.place)),
            None => volume.notes.push(format!("{place} says it is member {role} of {count}: left out")),
        }
    }
    volume.disks.sort();
    volume.disks.dedup();
    let missing: Vec<_> = (0..count).filter(|i| matches!(slots.get(*i), Some(None))).map(|i| i.to_string()).collect();
    let mut map = Map::default();
    let sizes: Vec<u64> = slots.iter().map(|s| s.map_or(0, |(sb, _)| sb.data_size)).collect();
    let areas: Vec<Option<Area>> =
        slots.iter().map(|s| s.map(|(sb, m)| map.area(&m.device, sb.data_offset, sb.data_size))).collect();
    let whole = missing.is_empty();
    let (chunk, each) = (newest.chunk, newest.size);
    let lacks = || {
        let list = missing.join(", ");
        Error::new(ErrorKind::Missing, format!("members {list} of {count} are missing: give the disks that have them"))
    };
    let readable = match newest.level {
        -1 | 0 if !whole => return Err(lacks()),
        -1 => linear(&mut map, areas, chunk)?,
        0 => stripes(&mut map, &areas, &sizes, newest)?,
        1 => push(&mut map, each, Raid::new(Layout::Mirror, 0, areas)?)?,
        10 => {
            let layout = raid10(newest.layout, each, chunk)?;
            let Layout::Copies { near, far, .. } = layout else { return Err(lacks()) };
            if newest.layout >> 17 != 0 && far > 1 && !whole {
                return Err(Error::unsupported(
                    "a raid10 with \"far sets\" is read only while all its members are there",
                ));
            }
            // As the kernel: whole chunks of a member, in as many sections as there are far copies.
            let chunks = each.checked_div(chunk).unwrap_or(0).checked_div(far).unwrap_or(0);
            let total = chunks.saturating_mul(count as u64).checked_div(near).unwrap_or(0);
            push(&mut map, total.saturating_mul(chunk), Raid::new(layout, chunk, areas)?)?
        }
        4..=6 => {
            let parity = parity(newest.level, newest.layout)?;
            let data = (count as u64).saturating_sub(parity.count);
            let each = each.checked_div(chunk).unwrap_or(0).saturating_mul(chunk);
            push(&mut map, each.saturating_mul(data), Raid::new(Layout::Parity(parity), chunk, areas)?)?
        }
        level => return Err(Error::unsupported(format!("md arrays of level {level} are not supported"))),
    };
    if !readable {
        return Err(lacks());
    }
    if !whole {
        volume.notes.push(format!("members {} of {count} are missing: read without them", missing.join(", ")));
    }
    let device = map.into_device()?;
    volume.size = device.size();
    volume.device = Some(device);
    Ok(())
}

/// Makes `raid` the whole of `map`; whether it can be read.
fn push(map: &mut Map, size: u64, raid: Raid) -> Result<bool> {
    let readable = raid.is_readable();
    map.push(size, Target::Raid(raid))?;
    Ok(readable)
}

fn linear(map: &mut Map, areas: Vec<Option<Area>>, chunk: u64) -> Result<bool> {
    for area in areas.into_iter().flatten() {
        map.push(rounded(area.len, chunk), Target::Linear(area))?;
    }
    Ok(true)
}

/// Whole chunks of `size` bytes.
fn rounded(size: u64, chunk: u64) -> u64 {
    size - size.checked_rem(chunk).unwrap_or(0)
}

/// A raid0 goes over all members as far as the smallest reaches, then over those that are longer, and so on: zones.
fn stripes(map: &mut Map, areas: &[Option<Area>], sizes: &[u64], sb: &Superblock) -> Result<bool> {
    /// The zones count their turns from the beginning of the array.
    const ORIGINAL: u32 = 1;
    /// The zones count their turns from their own beginning.
    const ALTERNATE: u32 = 2;
    let chunk = sb.chunk;
    let (mut done, mut turns) = (0, 0);
    loop {
        let longer = || areas.iter().zip(sizes).filter(|(_, size)| rounded(**size, chunk) > done);
        let Some(end) = longer().map(|(_, size)| rounded(*size, chunk)).min() else { return Ok(true) };
        let in_zone: Vec<Option<Area>> = longer()
            .map(|(area, _)| {
                let area = area.as_ref()?;
                let len = area.len.saturating_sub(done).min(end - done);
                Some(Area { file: area.file, offset: area.offset.saturating_add(done), len })
            })
            .collect();
        let count = in_zone.len() as u64;
        let first = match sb.layout {
            _ if done == 0 || count == 1 => 0,
            ALTERNATE => 0,
            ORIGINAL => turns % count,
            _ => {
                return Err(Error::unsupported(
                    "members of different sizes, and the superblock does not say how they are laid out \
                     (raid0.default_layout)",
                ));
            }
        };
        let len = (end - done).saturating_mul(count);
        map.push(len, Target::Raid(Raid::new(Layout::Stripes { first }, chunk, in_zone)?))?;
        turns += len.checked_div(chunk).unwrap_or(0);
        done = end;
    }
}

/// The layout of a raid10 (`md(4)`): near copies, far copies, and whether they are "offset".
fn raid10(layout: u32, each: u64, chunk: u64) -> Result<Layout> {
    let (near, far, offset) = (u64::from(layout & 0xff), u64::from(layout >> 8 & 0xff), layout & 1 << 16 != 0);
    if near == 0 || far == 0 || chunk == 0 {
        return Err(Error::damaged(format!("a raid10 of layout {layout:#x} and chunks of {chunk} bytes")));
    }
    let stride = if offset { 1 } else { (each / chunk / far).max(1) };
    Ok(Layout::Copies { near, far, stride, offset })
}

/// The layouts of levels 4, 5 and 6, by md's numbers.
fn parity(level: i32, layout: u32) -> Result<Parity> {
    use ParityPlace::{DdfContinue, DdfRestart, First, Last};
    use ParityPlace::{LeftAsymmetric, LeftSymmetric, RightAsymmetric, RightSymmetric};
    let count = if level == 6 { 2 } else { 1 };
    let (place, q_last) = match (level, layout) {
        (4, _) => (Last, false),
        (_, 0) => (LeftAsymmetric, false),
        (_, 1) => (RightAsymmetric, false),
        (_, 2) => (LeftSymmetric, false),
        (_, 3) => (RightSymmetric, false),
        (_, 4) => (First, false),
        (_, 5) => (Last, false),
        (6, 8) => (RightAsymmetric, false),
        (6, 9) => (DdfRestart, false),
        (6, 10) => (DdfContinue, false),
        (6, 16) => (LeftAsymmetric, true),
        (6, 17) => (RightAsymmetric, true),
        (6, 18) => (LeftSymmetric, true),
        (6, 19) => (RightSymmetric, true),
        (6, 20) => (First, true),
        _ => return Err(Error::unsupported(format!("md arrays of level {level} with layout {layout}"))),
    };
    Ok(Parity { place, count, q_last })
}
