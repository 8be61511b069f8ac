//! POSIX ACLs from XFS's form into the kernel's.
//!
//! XFS has a count and entries of 12 bytes (tag, id, permissions), big-endian; the kernel's attribute has a version and
//! entries of 8 bytes (tag, permissions, id), little-endian, with the id -1 where the tag has none.

use blockdev::{
    Error, Result,
    fields::{be16, be32},
};

use crate::Xattr;

const VERSION: u32 = 2;
const USER: u32 = 0x02;
const GROUP: u32 = 0x08;
const NO_ID: u32 = u32::MAX;
const ENTRY: usize = 12;

/// The ACL `stored` as the attribute `name` of inode `owner`.
///
/// # Errors
///
/// When it has not as many entries as it says.
pub fn converted(owner: u64, name: &str, stored: &[u8]) -> Result<Xattr> {
    let entries = stored.get(4..).unwrap_or_default().as_chunks::<ENTRY>().0;
    let count = be32(stored, 0) as usize;
    let entries = entries
        .get(..count)
        .ok_or_else(|| Error::damaged(format!("inode {owner}: its {name} has fewer entries than {count}")))?;
    let mut value = VERSION.to_le_bytes().to_vec();
    for entry in entries {
        let (tag, id, permissions) = (be32(entry, 0), be32(entry, 4), be16(entry, 8));
        let id = if matches!(tag, USER | GROUP) { id } else { NO_ID };
        value.extend((tag as u16).to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Ok(Xattr { name: name.as_bytes().to_vec(), value })
}
