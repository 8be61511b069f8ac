//! Directories in the inode: a count, the parent, and entries with inode numbers of four bytes, or of eight when one of
//! them needs it. ("Shortform Directories".)

use std::ops::ControlFlow;

use blockdev::{
    Error, Result,
    fields::{be32, be64},
};

use super::Stored;
use crate::xfs::{inode::Inode, volume::Volume};

/// Calls `give` for each entry after the one with `cookie`: cookies count entries.
pub fn list(
    volume: &Volume,
    inode: &Inode,
    cookie: u64,
    give: &mut dyn FnMut(Stored<'_>) -> ControlFlow<()>,
) -> Result<()> {
    for entry in Entries::of(volume, inode)? {
        let entry = entry?;
        if entry.cookie > cookie && give(entry).is_break() {
            break;
        }
    }
    Ok(())
}

/// The inode of `name`.
pub fn lookup(volume: &Volume, inode: &Inode, name: &[u8]) -> Result<Option<u64>> {
    for entry in Entries::of(volume, inode)? {
        let entry = entry?;
        if entry.name == name {
            return Ok(Some(entry.inode));
        }
    }
    Ok(None)
}

struct Entries<'a> {
    owner: u64,
    bytes: &'a [u8],
    at: usize,
    left: u8,
    number_len: usize,
    ftype: bool,
    given: u64,
}

impl<'a> Entries<'a> {
    fn of(volume: &Volume, inode: &'a Inode) -> Result<Self> {
        let all = inode.data.bytes();
        let bytes = usize::try_from(inode.size).ok().and_then(|len| all.get(..len));
        let Some(bytes @ [count, wide, ..]) = bytes else {
            return Err(Error::damaged(format!("inode {}: a directory of {} bytes", inode.number, inode.size)));
        };
        let number_len = if *wide > 0 { 8 } else { 4 };
        let (at, ftype) = (2 + number_len, volume.sb.ftype);
        Ok(Self { owner: inode.number, bytes, at, left: *count, number_len, ftype, given: 0 })
    }

    /// The entry at `at`: length of the name, an offset for cookies, name, type, inode.
    fn entry(&self) -> Option<(Stored<'a>, usize)> {
        let name_len = usize::from(*self.bytes.get(self.at)?);
        let name_at = self.at + 3;
        let name = self.bytes.get(name_at..name_at + name_len).filter(|name| !name.is_empty())?;
        let ftype_at = name_at + name_len;
        let number_at = ftype_at + usize::from(self.ftype);
        let number = self.bytes.get(number_at..number_at + self.number_len)?;
        let inode = if self.number_len == 8 { be64(number, 0) } else { u64::from(be32(number, 0)) };
        let ftype = if self.ftype { *self.bytes.get(ftype_at)? } else { 0 };
        Some((Stored { name, inode, ftype, cookie: self.given + 1 }, number_at + self.number_len))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Stored<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let Some((entry, end)) = self.entry() else {
            self.left = 0;
            return Some(Err(Error::damaged(format!("inode {}: its directory is cut off", self.owner))));
        };
        (self.at, self.given) = (end, self.given + 1);
        Some(Ok(entry))
    }
}
