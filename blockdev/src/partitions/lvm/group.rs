//! What the metadata of a volume group says.

use std::collections::BTreeMap;

use super::text::{Section, Value};
use crate::{Error, Result};

const SECTOR: u64 = 512;

/// A volume group.
pub struct Group {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Grows with each change of the metadata.
    pub sequence: u64,
    /// Bytes of an extent.
    pub extent: u64,
    /// The physical volumes, by the name that segments call them.
    pub physical: BTreeMap<String, Physical>,
    /// The logical volumes, by name.
    pub logical: BTreeMap<String, Logical>,
}

/// A physical volume.
pub struct Physical {
    /// Its identifier.
    pub id: String,
    /// What the device was called where the group was used last.
    pub device: String,
    /// Byte at which its extents begin.
    pub start: u64,
    /// Whether LVM2 had given it up: what it has is out of date.
    pub is_missing: bool,
}

/// A logical volume.
pub struct Logical {
    /// Its identifier.
    pub id: String,
    /// Whether it is to be seen, or a part of another.
    pub is_visible: bool,
    /// Its segments, by where they begin.
    pub segments: Vec<Segment>,
}

/// A part of a logical volume.
pub struct Segment {
    /// First extent.
    pub start: u64,
    /// How many there are.
    pub extents: u64,
    /// How it is stored, in LVM2's words: `striped`, `raid5_ls`, `thin` ...
    pub kind: String,
    /// Everything else.
    pub fields: Section,
}

/// A part of a physical or logical volume, as a segment names it.
pub struct AreaName<'a> {
    /// The volume.
    pub name: &'a str,
    /// First extent.
    pub extent: u64,
}

impl Group {
    /// The group that `text` describes.
    ///
    /// # Errors
    ///
    /// `Damaged` when it does not describe one.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let mut all = Section::parse(text)?;
        let is_group = |(_, s): &(&str, &Section)| s.number("extent_size").is_some();
        let name = all.sections().find(is_group).map(|(name, _)| name.to_owned());
        let name = name.ok_or_else(|| lacks("a volume group"))?;
        let mut vg = all.take_section(&name).ok_or_else(|| lacks("a volume group"))?;
        let extent = vg.number("extent_size").and_then(|n| n.checked_mul(SECTOR)).filter(|n| *n > 0);
        let mut named = |what: &str| vg.take_section(what).into_iter().flat_map(Section::into_sections);
        let physical = named("physical_volumes").map(|(name, pv)| {
            let physical = Physical {
                id: pv.text("id").unwrap_or_default().to_owned(),
                device: pv.text("device").unwrap_or("an unknown device").to_owned(),
                start: pv.number("pe_start").and_then(|n| n.checked_mul(SECTOR)).ok_or_else(|| lacks("pe_start"))?,
                is_missing: pv.has("flags", "MISSING") || pv.has("status", "MISSING"),
            };
            Ok((name, physical))
        });
        let physical = physical.collect::<Result<_>>()?;
        let logical = named("logical_volumes").map(|(name, lv)| {
            let (id, is_visible) = (lv.text("id").unwrap_or_default().to_owned(), lv.has("status", "VISIBLE"));
            let mut segments = lv.into_sections().map(|(_, s)| Segment::parse(s)).collect::<Result<Vec<_>>>()?;
            segments.sort_by_key(|s| s.start);
            Ok((name, Logical { id, is_visible, segments }))
        });
        let logical = logical.collect::<Result<_>>()?;
        Ok(Self {
            id: vg.text("id").ok_or_else(|| lacks("the group's id"))?.to_owned(),
            name,
            sequence: vg.number("seqno").unwrap_or(0),
            extent: extent.ok_or_else(|| lacks("an extent size"))?,
            physical,
            logical,
        })
    }
}

impl Logical {
    /// Its size in extents, which has to be what its segments cover without gaps.
    pub fn extents(&self) -> Result<u64> {
        self.segments.iter().try_fold(0_u64, |end, s| {
            let next = end.checked_add(s.extents).filter(|_| s.start == end);
            next.ok_or_else(|| Error::damaged("its segments overlap or leave gaps"))
        })
    }
}

impl Segment {
    fn parse(fields: Section) -> Result<Self> {
        Ok(Self {
            start: fields.number("start_extent").ok_or_else(|| lacks("start_extent"))?,
            extents: fields.number("extent_count").ok_or_else(|| lacks("extent_count"))?,
            kind: fields.text("type").ok_or_else(|| lacks("a segment's type"))?.to_owned(),
            fields,
        })
    }

    /// The areas in the list called `list`: names and first extents in turns.
    pub fn areas(&self, list: &str) -> impl Iterator<Item = AreaName<'_>> {
        self.fields.list(list).chunks_exact(2).filter_map(|pair| match pair {
            [Value::Text(name), Value::Number(extent)] => Some(AreaName { name, extent: u64::try_from(*extent).ok()? }),
            _ => None,
        })
    }

    /// The names in the list called `list`.
    pub fn names(&self, list: &str) -> impl Iterator<Item = &str> {
        self.fields.list(list).iter().filter_map(|v| match v {
            Value::Text(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

fn lacks(what: &str) -> Error {
    Error::damaged(format!("the LVM2 metadata lacks {what}"))
}
