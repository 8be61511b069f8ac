//! Extended attributes in their forms: in the inode, in one block, and in blocks under a tree of hashes; large values in
//! blocks of their own. ("Extended Attributes".)
//!
//! An attribute's flags say its namespace. POSIX ACLs are among those of root, in XFS's own form, and are given as the
//! kernel gives them. Parent pointers are attributes that are none, and are left out.

mod acl;
mod leaf;

use blockdev::{
    Error, ErrorKind, Result,
    fields::{be16, slice},
};

use super::{
    inode::{Format, Inode},
    volume::Volume,
};
use crate::Xattr;

/// Flags of an attribute.
mod flags {
    /// Its value lies beside its name.
    pub const LOCAL: u8 = 0x1;
    /// Namespace `trusted`.
    pub const ROOT: u8 = 0x2;
    /// Namespace `security`.
    pub const SECURE: u8 = 0x4;
    /// Where a parent directory has the file.
    pub const PARENT: u8 = 0x8;
    /// It is being written.
    pub const INCOMPLETE: u8 = 0x80;
}

/// Bytes of names and values of one file: a bound for damaged trees.
const TOTAL_MAX: usize = 32 << 20;

/// Bytes before the entries of attributes in the inode: their length, and their number.
const SHORT_HEADER: usize = 4;

/// The attributes of `inode`.
///
/// # Errors
///
/// When they cannot be read.
pub fn list(volume: &Volume, inode: &Inode) -> Result<Vec<Xattr>> {
    let Some(fork) = &inode.attributes else { return Ok(Vec::new()) };
    let mut found = Found { owner: inode.number, list: Vec::new(), bytes: 0 };
    match fork.format {
        Format::Local => short(inode.number, fork.bytes(), &mut found)?,
        Format::Extents(0) => {}
        Format::Extents(_) | Format::Tree => leaf::list(volume, inode.number, fork, &mut found)?,
        Format::Device => return Err(Error::damaged(format!("inode {}: attributes of no format", inode.number))),
    }
    Ok(found.list)
}

/// Attributes in the inode: entries of the length of name and value, flags, name and value.
fn short(owner: u64, fork: &[u8], found: &mut Found) -> Result<()> {
    let cut = || Error::damaged(format!("inode {owner}: its attributes are cut off"));
    let total = usize::from(be16(fork, 0));
    let bytes = fork.get(..total).filter(|_| total >= SHORT_HEADER).ok_or_else(cut)?;
    let mut at = SHORT_HEADER;
    for _ in 0..bytes.get(2).copied().unwrap_or_default() {
        let [name_len, value_len, flags] = bytes.get(at..).and_then(|b| b.first_chunk()).copied().ok_or_else(cut)?;
        let name_at = at + 3;
        let value_at = name_at + usize::from(name_len);
        at = value_at + usize::from(value_len);
        let value = bytes.get(value_at..at).ok_or_else(cut)?;
        found.add(flags, slice(bytes, name_at, name_len.into()), || Ok(value.to_vec()))?;
    }
    Ok(())
}

/// The attributes that were found so far.
struct Found {
    owner: u64,
    list: Vec<Xattr>,
    bytes: usize,
}

impl Found {
    /// Add the attribute `name`, unless it is not for anybody to see.
    fn add(&mut self, flag: u8, name: &[u8], value: impl FnOnce() -> Result<Vec<u8>>) -> Result<()> {
        if flag & (flags::PARENT | flags::INCOMPLETE) != 0 {
            return Ok(());
        }
        if name.is_empty() {
            return Err(Error::damaged(format!("inode {}: an attribute without name", self.owner)));
        }
        let value = value()?;
        let root = flag & flags::ROOT != 0;
        let attribute = match name {
            b"SGI_ACL_FILE" if root => acl::converted(self.owner, "system.posix_acl_access", &value)?,
            b"SGI_ACL_DEFAULT" if root => acl::converted(self.owner, "system.posix_acl_default", &value)?,
            _ => {
                let space = match flag & (flags::ROOT | flags::SECURE) {
                    0 => "user.",
                    flags::SECURE => "security.",
                    _ => "trusted.",
                };
                Xattr { name: [space.as_bytes(), name].concat(), value }
            }
        };
        self.bytes += attribute.name.len() + attribute.value.len();
        if self.bytes > TOTAL_MAX {
            let message = format!("inode {}: more than {TOTAL_MAX} bytes of attributes", self.owner);
            return Err(Error::new(ErrorKind::Limit, message));
        }
        self.list.push(attribute);
        Ok(())
    }
}
