//! LVM2: groups of physical volumes, divided into logical ones, from the metadata on the disks.
//!
//! [`label`] finds physical volumes and their metadata, [`text`] parses it, [`group`] says what it means, and [`build`]
//! puts the logical volumes together. Thin pools ([`thin`]) and snapshots ([`snapshot`]) have metadata of their own.

mod build;
mod group;
mod label;
pub(super) mod snapshot;
mod text;
pub(super) mod thin;

use std::collections::BTreeMap;

pub use label::label;

use self::group::Group;
use super::{Assembled, Member};
use crate::{Error, ErrorKind, Result};

/// Physical volumes of a group that are told to be missing.
const MISSING_TOLD: usize = 64;
/// Bytes of metadata texts that are parsed for all disks together, equal ones counted once.
const TEXTS_MAX: usize = 8 << 20;

/// The logical volumes that the physical ones among `members` have, and what is odd about their groups.
pub(super) fn assemble(members: &[Member]) -> (Vec<Assembled>, Vec<String>) {
    let mut notes = Vec::new();
    let (mut last, mut parsed) = (Vec::new(), 0);
    let mut by_id: BTreeMap<String, &Member> = BTreeMap::new();
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for member in members {
        let label = match label(member.device.as_ref()) {
            Ok(Some(label)) => label,
            Ok(None) => continue,
            Err(e) => {
                notes.push(format!("{}: {e}", member.place));
                continue;
            }
        };
        for text in label::texts(member.device.as_ref(), &label) {
            // All physical volumes of a group have the same text, unless one was away.
            if text.as_ref().is_ok_and(|text| last == *text) {
                continue;
            }
            let group = text.and_then(|text| {
                parsed += text.len();
                last = text;
                let too_much = || Error::new(ErrorKind::Limit, "there is more LVM2 metadata than is read");
                if parsed > TEXTS_MAX { Err(too_much()) } else { Group::parse(&last) }
            });
            match group {
                // The newest counts: a disk that was away for a while has an old text.
                Ok(group) => match groups.get(&group.id) {
                    Some(known) if known.sequence >= group.sequence => {}
                    _ => drop(groups.insert(group.id.clone(), group)),
                },
                Err(e) => notes.push(format!("{}: {e}", member.place)),
            }
        }
        if let Some(first) = by_id.get(&label.pv_id) {
            let (place, id) = (&member.place, &label.pv_id);
            notes.push(format!("{place} is a copy of {} (physical volume {id}) and was left out", first.place));
        } else {
            by_id.insert(label.pv_id, member);
        }
    }
    let mut volumes = Vec::new();
    for group in groups.values() {
        for pv in group.physical.values().filter(|pv| !by_id.contains_key(&pv.id)).take(MISSING_TOLD) {
            notes.push(format!(
                "volume group {} lacks its physical volume {} (last seen as {}): give the disk that has it",
                group.name, pv.id, pv.device
            ));
        }
        volumes.extend(build::volumes(group, &by_id));
    }
    (volumes, notes)
}

/// Parses the text of LVM2 metadata.
pub fn parse(text: &[u8]) -> Result<()> {
    Group::parse(text).map(drop)
}
