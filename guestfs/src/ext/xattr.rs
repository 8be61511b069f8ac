//! Extended attributes: behind the fields of the inode, and in a block of their own that files may share.
//!
//! Both are a list of entries, with values counted from its start (in the inode) or from that of the block. A large value
//! is the content of an inode (`ea_inode`). The content of small files is an attribute too (`inline_data`).

use std::sync::Arc;

use blockdev::{
    Error, ErrorKind, Result,
    fields::{le16, le32, slice},
};

use super::{
    acl, checksum,
    inode::{self, Inode},
    map::{Content, Map},
    volume::Volume,
};
use crate::Xattr;

const MAGIC: u32 = 0xea02_0000;
/// Bytes of the header in an inode, and in a block.
const INODE_HEADER: usize = 4;
const BLOCK_HEADER: usize = 32;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// Bytes of a value: Linux knows no larger ones.
const VALUE_MAX: u32 = 64 << 10;
/// Bytes of all values of a file together: far above what any system writes, and a bound for what shared inodes claim.
const VALUES_MAX: usize = 16 << 20;

const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;
const SYSTEM: u8 = 7;

/// What the number in an entry puts before its name. Others are the filesystem's own affair.
const fn prefix(index: u8) -> Option<&'static str> {
    Some(match index {
        1 => "user.",
        ACL_ACCESS => "system.posix_acl_access",
        ACL_DEFAULT => "system.posix_acl_default",
        4 => "trusted.",
        5 => "lustre.",
        6 => "security.",
        8 => "system.richacl",
        10 => "gnu.",
        _ => return None,
    })
}

/// A list of attributes.
struct List<'a> {
    /// What offsets of values count in.
    bytes: &'a [u8],
    /// Where the entries begin.
    first: usize,
    inode: &'a Inode,
}

/// An entry of a list.
struct Entry<'a> {
    index: u8,
    name: &'a [u8],
    value: Value<'a>,
}

enum Value<'a> {
    Here(&'a [u8]),
    Inode { number: u32, len: u32 },
}

impl<'a> List<'a> {
    /// That in `inode`, when it has one.
    fn of_inode(inode: &'a Inode) -> Option<Self> {
        let tail = inode.tail();
        let bytes = tail.get(INODE_HEADER..).filter(|_| le32(tail, 0) == MAGIC)?;
        Some(Self { bytes, first: 0, inode })
    }

    /// Calls `sink` for each entry.
    fn each(&self, mut sink: impl FnMut(Entry<'a>) -> Result<()>) -> Result<()> {
        let mut at = self.first;
        // Four bytes of nothing end the list, as the end of the room does.
        while self.bytes.len().saturating_sub(at) >= 4 && le32(self.bytes, at) != 0 {
            let entry = self.entry(at);
            let (entry, len) =
                entry.ok_or_else(|| self.inode.damaged(format_args!("its attributes have no entry at byte {at}")))?;
            sink(entry)?;
            at += len;
        }
        Ok(())
    }

    fn entry(&self, at: usize) -> Option<(Entry<'a>, usize)> {
        let head = self.bytes.get(at..at.checked_add(ENTRY)?)?;
        let (name_len, index) = (usize::from(*head.first()?), *head.get(1)?);
        let name = self.bytes.get(at + ENTRY..at + ENTRY + name_len)?;
        let (offset, number, len) = (usize::from(le16(head, 2)), le32(head, 4), le32(head, 8));
        let value = if number != 0 {
            Value::Inode { number, len }
        } else {
            Value::Here(self.bytes.get(offset..offset.checked_add(len as usize)?).or((len == 0).then_some(&[][..]))?)
        };
        Some((Entry { index, name, value }, (ENTRY + name_len).next_multiple_of(4)))
    }
}

/// The content of `inode`, which is in itself: what is in the map's place, and the value of `system.data` behind it.
///
/// # Errors
///
/// When there is no such attribute.
pub fn inline(inode: &Inode) -> Result<Vec<u8>> {
    let mut found = None;
    if let Some(list) = List::of_inode(inode) {
        list.each(|entry| {
            if let (SYSTEM, b"data", Value::Here(value)) = (entry.index, entry.name, entry.value) {
                found = Some(value);
            }
            Ok(())
        })?;
    }
    let rest = found.ok_or_else(|| inode.damaged(format_args!("its content should be in it and is not")))?;
    Ok([inode.map(), rest].concat())
}

/// The attributes of `inode`.
///
/// # Errors
///
/// When they are damaged.
pub fn all(volume: &Arc<Volume>, inode: &Inode) -> Result<Vec<Xattr>> {
    let mut found = Vec::new();
    let mut left = VALUES_MAX;
    let mut take = |entry: Entry<'_>| -> Result<()> {
        let Some(prefix) = prefix(entry.index) else { return Ok(()) };
        let value = match entry.value {
            Value::Here(value) => value.to_vec(),
            Value::Inode { number, len } => value_of(volume, inode, number, len)?,
        };
        let all = || format!("the attributes of inode {} have more than {VALUES_MAX} bytes", inode.number);
        left = left.checked_sub(value.len()).ok_or_else(|| Error::new(ErrorKind::Limit, all()))?;
        let value = match entry.index {
            ACL_ACCESS | ACL_DEFAULT => acl::to_kernel(&value)
                .ok_or_else(|| inode.damaged(format_args!("its attribute {prefix} is no access control list")))?,
            _ => value,
        };
        found.push(Xattr { name: [prefix.as_bytes(), entry.name].concat(), value });
        Ok(())
    };
    if let Some(list) = List::of_inode(inode) {
        list.each(&mut take)?;
    }
    let number = inode.attribute_block(&volume.superblock);
    if number != 0 {
        let bytes = volume.block(number, |bytes| check(volume, number, bytes))?;
        if le32(&bytes, 0) != MAGIC || !volume.has_blocks(number, 1) {
            return Err(inode.damaged(format_args!("its attributes should be in block {number} and are not")));
        }
        List { bytes: &bytes, first: BLOCK_HEADER, inode }.each(&mut take)?;
    }
    Ok(found)
}

/// Nothing, when block `number` with attributes has the right checksum.
fn check(volume: &Volume, number: u64, bytes: &[u8]) -> Result<()> {
    const SUM: usize = 16;
    if !volume.superblock.has_checksums() {
        return Ok(());
    }
    let sum = volume.superblock.seed.add(&number.to_le_bytes()).add(slice(bytes, 0, SUM)).add(&[0; 4]);
    let sum = sum.add_range(bytes, SUM + 4..bytes.len());
    checksum::expect(le32(bytes, SUM), sum.value(), format_args!("block {number} with attributes"))
}

/// The value of `len` bytes that is the content of inode `number`, for the file `owner`.
fn value_of(volume: &Arc<Volume>, owner: &Inode, number: u32, len: u32) -> Result<Vec<u8>> {
    let value = volume.inode(number)?;
    if !value.is(inode::VALUE) || value.size(&volume.superblock)? != u64::from(len) || len > VALUE_MAX {
        return Err(owner.damaged(format_args!("inode {number} is not the value of its attribute")));
    }
    let bytes = Content::new(Map::new(Arc::clone(volume), &value), len.into()).read(VALUE_MAX.into())?;
    // Lustre, which had such values first, keeps the number of the file where their checksum is now.
    let is_lustre = value.value_parent() == owner.number && value.generation() == owner.generation();
    if !is_lustre {
        let sum = volume.superblock.seed.add(&bytes).value();
        checksum::expect(value.value_hash(), sum, format_args!("inode {number}, the value of an attribute,"))?;
    }
    Ok(bytes)
}
