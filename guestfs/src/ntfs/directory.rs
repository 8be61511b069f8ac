//! Directories: indexes of names.

use std::{cmp::Ordering, ops::ControlFlow, sync::Arc};

use blockdev::{Error, Result};

use super::{
    collation::UpCase,
    file::File,
    index::{Entry, Index, Node, Nodes, Place, Walk},
    names::FileName,
    record::{Reference, kind},
};
use crate::names;

/// `$I30` in UTF-16LE: the index of a directory.
const I30: &[u8] = b"$\0I\x003\x000\0";

/// Names that differ only in case, in one directory: more are a sign of an index that goes in circles.
const SAME_MAX: u32 = 1 << 16;

/// Bits of a cookie for where an entry is in its node, in units of 8 bytes.
const AT_BITS: u32 = 13;

/// A directory.
pub struct Directory<'a> {
    index: &'a Index,
    nodes: &'a Nodes,
    upcase: &'a UpCase,
}

/// A name in a directory.
pub struct Named<'a> {
    /// The name.
    pub name: FileName<'a>,
    /// The file.
    pub file: Reference,
    /// Where to go on behind it.
    pub cookie: u64,
}

/// The index of the directory `file`.
pub fn index(file: &File) -> Result<Index> {
    Index::of(file, I30)
}

/// Bytes of the index of the directory `file`, and of the clusters it has.
pub fn size(file: &File) -> Result<(u64, u64)> {
    let nodes = file.value(kind::INDEX_ALLOCATION, I30)?;
    Ok(nodes.map_or((0, 0), |nodes| (nodes.size(), nodes.allocated())))
}

fn name(entry: Entry<'_>) -> Result<FileName<'_>> {
    FileName::parse(entry.key()).ok_or_else(|| {
        Error::damaged(format!("NTFS file record {}: one of its names is cut off", entry.file().number()))
    })
}

impl<'a> Directory<'a> {
    /// That of `index`, whose nodes are kept among `nodes`.
    pub const fn new(index: &'a Index, nodes: &'a Nodes, upcase: &'a UpCase) -> Self {
        Self { index, nodes, upcase }
    }

    /// From the first name on that is not below `units` (in UTF-16LE).
    fn from(&self, units: &[u8]) -> Result<Walk<'a>> {
        Walk::from(self.index, self.nodes, |entry| {
            FileName::parse(entry.key()).is_some_and(|name| self.upcase.compare(name.units(), units) == Ordering::Less)
        })
    }

    /// The file called `wanted`, exactly so spelled.
    pub fn lookup(&self, wanted: &[u8]) -> Result<Option<Reference>> {
        let Some(units) = names::to_utf16le(wanted) else { return Ok(None) };
        let mut walk = self.from(&units)?;
        let mut same = 0;
        while let Some((node, place)) = walk.next()? {
            let Some(entry) = node.entry_at(place.at) else { break };
            let found = name(entry)?;
            if self.upcase.compare(found.units(), &units) != Ordering::Equal || same > SAME_MAX {
                break;
            }
            if found.units() == units && !found.is_for_dos() {
                return Ok(Some(entry.file()));
            }
            same += 1;
        }
        Ok(None)
    }

    /// Calls `sink` for each name behind the one of `cookie`, or for all if that is 0. Names for DOS are left out.
    pub fn list(&self, cookie: u64, mut sink: impl FnMut(Named<'_>) -> ControlFlow<()>) -> Result<()> {
        let mut walk = if cookie == 0 { self.from(&[])? } else { self.behind(cookie)? };
        let mut before: Option<(Arc<Node>, Place)> = None;
        let mut same = 0;
        while let Some((node, place)) = walk.next()? {
            let Some(entry) = node.entry_at(place.at) else { break };
            let found = name(entry)?;
            // An index that goes in circles cannot do it in ascending order.
            let last = before.as_ref().and_then(|(node, place)| FileName::parse(node.entry_at(place.at)?.key()));
            match last.map(|last| self.upcase.compare(last.units(), found.units())) {
                Some(Ordering::Greater) => return Err(out_of_order(&found)),
                Some(Ordering::Equal) if same > SAME_MAX => return Err(out_of_order(&found)),
                Some(Ordering::Equal) => same += 1,
                _ => same = 0,
            }
            let named = Named { name: found, file: entry.file(), cookie: cookie_of(place) };
            if !found.is_for_dos() && sink(named).is_break() {
                return Ok(());
            }
            before = Some((node, place));
        }
        Ok(())
    }

    /// From the name on behind the one of `cookie`.
    fn behind(&self, cookie: u64) -> Result<Walk<'a>> {
        let unknown = || Error::invalid(format!("no name of this directory has the cookie {cookie}"));
        let place = place_of(cookie);
        let node = self.index.node_of(place, self.nodes)?;
        let key = FileName::parse(node.entry_at(place.at).ok_or_else(unknown)?.key()).ok_or_else(unknown)?;
        let mut walk = self.from(key.units())?;
        // Others that differ only in case may come before.
        for _ in 0..=SAME_MAX {
            match walk.next()? {
                Some((_, found)) if found == place => return Ok(walk),
                Some(_) => {}
                None => break,
            }
        }
        Err(unknown())
    }
}

fn out_of_order(name: &FileName<'_>) -> Error {
    let shown = String::from_utf8_lossy(&name.name()).escape_debug().to_string();
    Error::damaged(format!(
        "NTFS file record {}: the names of this directory are out of order from '{shown}' on",
        name.parent().number()
    ))
}

const fn cookie_of(place: Place) -> u64 {
    let node = match place.node {
        None => 0,
        Some(vcn) => vcn.saturating_add(1),
    };
    node << AT_BITS | (place.at >> 3) as u64
}

const fn place_of(cookie: u64) -> Place {
    Place { node: (cookie >> AT_BITS).checked_sub(1), at: ((cookie & ((1 << AT_BITS) - 1)) << 3) as u32 }
}
