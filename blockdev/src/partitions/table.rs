//! Which partition table a disk has, and what its entries say, made safe: entries that lie outside the disk are left out
//! or cut short, and those that overlap are told.

use super::{gpt, kinds::PartitionKind, mbr};
use crate::{BlockDevice, Result};

/// Entries that are looked at; a table with more is hostile.
pub const ENTRIES_MAX: usize = 256;

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Not at all: one volume covers it.
    Whole,
    /// By a master boot record, with logical partitions in extended ones.
    Mbr,
    /// By a GUID partition table.
    Gpt,
    /// A logical volume of Linux' LVM2.
    Lvm,
    /// An array of Linux' md.
    Md,
}

impl Scheme {
    /// Its name: `whole`, `mbr`, `gpt`, `lvm`, `md`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Mbr => "mbr",
            Self::Gpt => "gpt",
            Self::Lvm => "lvm",
            Self::Md => "md",
        }
    }
}

/// A partition table.
#[derive(Debug)]
pub struct Table {
    /// MBR or GPT.
    pub scheme: Scheme,
    /// The disk's GUID, or the MBR's signature in eight hexadecimal digits.
    pub id: Option<String>,
    /// Bytes of the sectors that the table counts in.
    pub sector_size: u32,
    /// Its partitions, by number.
    pub entries: Vec<Entry>,
    /// What is odd about it.
    pub notes: Vec<String>,
}

/// A partition, in bytes.
#[derive(Debug)]
pub struct Entry {
    /// Its number: logical partitions begin at 5.
    pub number: u32,
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub size: u64,
    /// What it is for.
    pub kind: PartitionKind,
    /// Its name in a GPT.
    pub label: Option<String>,
    /// Its GUID, or for an MBR the disk's signature and the number, as Linux' PARTUUID.
    pub uuid: Option<String>,
    /// Whether it is marked to be booted from.
    pub active: bool,
    /// What is odd about it.
    pub notes: Vec<String>,
}

/// The partition table of `disk`, or `None` when it has none.
///
/// # Errors
///
/// When the disk cannot be read.
pub fn read(disk: &dyn BlockDevice) -> Result<Option<Table>> {
    let mbr = mbr::read(disk)?;
    let protective = mbr.as_ref().is_some_and(|m| m.is_protective);
    // A GPT counts when the MBR says so, or when there is none (its first sector was wiped). Otherwise some other
    // system has divided the disk since.
    let gpt = if mbr.is_none() || protective { gpt::read(disk, protective)? } else { None };
    let table = match (gpt, mbr) {
        (Some(mut gpt), Some(mbr)) => {
            if mbr.table.entries.iter().any(|e| e.kind.code != mbr::PROTECTIVE_CODE) {
                gpt.notes.push("a hybrid MBR names some of the partitions too; the GPT was followed".into());
            }
            Some(gpt)
        }
        (Some(mut gpt), None) => {
            gpt.notes.push("the protective MBR in front of the GPT is missing".into());
            Some(gpt)
        }
        (None, Some(mbr)) if protective => {
            let mut table = mbr.table;
            table.entries.retain(|e| e.kind.code != mbr::PROTECTIVE_CODE);
            table.notes.push("the MBR says there is a GPT, and neither of its two headers is valid".into());
            Some(table)
        }
        (None, Some(mbr)) => Some(mbr.table),
        (None, None) => None,
    };
    Ok(table.map(|mut table| {
        fit(&mut table, disk.size());
        table
    }))
}

/// Makes all entries lie within `size`, and tells which do not, and which overlap.
fn fit(table: &mut Table, size: u64) {
    let notes = &mut table.notes;
    table.entries.retain_mut(|entry| {
        let number = entry.number;
        if entry.start >= size || entry.size == 0 {
            notes.push(format!("partition {number} begins at byte {}, the disk ends at {size}: left out", entry.start));
            return false;
        }
        if entry.size > size - entry.start {
            entry.notes.push(format!("the table gives it {} bytes, the disk ends before: cut short", entry.size));
            entry.size = size - entry.start;
        }
        true
    });
    let mut order: Vec<usize> = (0..table.entries.len()).collect();
    let end = |e: &Entry| e.start.saturating_add(e.size);
    order.sort_by_key(|i| table.entries.get(*i).map(|e| (e.start, e.number)));
    let mut furthest: Option<usize> = None;
    for i in order {
        let Some(this) = table.entries.get(i) else { continue };
        let (number, start, this_end) = (this.number, this.start, end(this));
        let before = furthest.and_then(|f| table.entries.get(f)).map(|e| (e.number, end(e)));
        match before {
            Some((other, other_end)) if other_end > start => {
                if let Some(entry) = table.entries.get_mut(i) {
                    entry.notes.push(format!("overlaps partition {other}"));
                }
                if let Some(entry) = furthest.and_then(|f| table.entries.get_mut(f)) {
                    entry.notes.push(format!("overlaps partition {number}"));
                }
                if this_end > other_end {
                    furthest = Some(i);
                }
            }
            _ => furthest = Some(i),
        }
    }
}
