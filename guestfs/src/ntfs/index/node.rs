//! A node of an index: entries in the order of their keys. The last has no key, and stands for all above.

use blockdev::{
    Error, Result,
    fields::{le16, le32, le64, slice},
};

use super::super::{fixup, kept::Weight, record::Reference};

/// Where the head of the entries is, in the value of the root and in other nodes.
const ROOT_HEAD: usize = 16;
const NODE_HEAD: usize = 24;

const HAS_CHILD: u16 = 1;
const IS_LAST: u16 = 2;

/// A sound node.
pub struct Node {
    /// Its number; `None` in the root.
    pub vcn: Option<u64>,
    bytes: Vec<u8>,
    /// Where each entry begins; the last is the one without a key.
    entries: Vec<u32>,
}

impl Weight for Node {
    fn bytes(&self) -> usize {
        self.bytes.len() + self.entries.capacity() * 4
    }
}

/// An entry.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    bytes: &'a [u8],
    /// Byte of the node where it begins.
    pub at: u32,
}

impl Node {
    /// The root, out of its attribute's value; and the bytes of the other nodes.
    pub fn root(value: Vec<u8>) -> Result<(Self, u32)> {
        let size = le32(&value, 8);
        let entries = entries(&value, ROOT_HEAD)?;
        Ok((Self { vcn: None, bytes: value, entries }, size))
    }

    /// The node of the number `vcn`, out of its stored bytes.
    pub fn parse(vcn: u64, mut bytes: Vec<u8>) -> Result<Self> {
        fixup::restore(&mut bytes, b"INDX")?;
        let stored = le64(&bytes, 16);
        if stored != vcn {
            return Err(Error::damaged(format!("it says that it is node {stored}")));
        }
        let entries = entries(&bytes, NODE_HEAD)?;
        Ok(Self { vcn: Some(vcn), bytes, entries })
    }

    /// How many entries there are, the last one without a key among them. Never 0.
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entry number `index`.
    pub fn entry(&self, index: usize) -> Option<Entry<'_>> {
        let at = *self.entries.get(index)?;
        Some(Entry { bytes: slice(&self.bytes, at as usize, le16(&self.bytes, at as usize + 8).into()), at })
    }

    /// The entry with a key that begins at byte `at`.
    pub fn entry_at(&self, at: u32) -> Option<Entry<'_>> {
        let index = self.entries.binary_search(&at).ok()?;
        self.entry(index).filter(|_| index + 1 < self.len())
    }

    /// The number of the first entry of which `is_below` is not true; of the last, if there is none.
    pub fn lower_bound(&self, mut is_below: impl FnMut(Entry<'_>) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len().saturating_sub(1));
        while low < high {
            let middle = low.midpoint(high);
            if self.entry(middle).is_some_and(&mut is_below) { low = middle + 1 } else { high = middle }
        }
        low
    }
}

/// Where the entries are, of a node whose head of entries is at byte `head`.
fn entries(node: &[u8], head: usize) -> Result<Vec<u32>> {
    let end = head.saturating_add(le32(node, head + 4) as usize);
    let used = slice(node, 0, end);
    let mut at = head.saturating_add(le32(node, head) as usize);
    let mut found = Vec::new();
    loop {
        let (len, key, flags) =
            (usize::from(le16(used, at + 8)), usize::from(le16(used, at + 10)), le16(used, at + 12));
        let child = if flags & HAS_CHILD != 0 { 8 } else { 0 };
        let key = if flags & IS_LAST != 0 { 0 } else { key };
        if !(at | len).is_multiple_of(8) || len < 16 + key + child || at.saturating_add(len) > used.len() {
            return Err(Error::damaged(format!("its entry at byte {at} has {len} bytes, with a key of {key}")));
        }
        found.push(at as u32);
        if flags & IS_LAST != 0 {
            found.shrink_to_fit();
            return Ok(found);
        }
        at += len;
    }
}

impl<'a> Entry<'a> {
    /// The file, in an index of names.
    pub fn file(&self) -> Reference {
        Reference(le64(self.bytes, 0))
    }

    /// What belongs to the key, in other indexes.
    pub fn data(&self) -> &'a [u8] {
        slice(self.bytes, le16(self.bytes, 0).into(), le16(self.bytes, 2).into())
    }

    /// The key.
    pub fn key(&self) -> &'a [u8] {
        slice(self.bytes, 16, le16(self.bytes, 10).into())
    }

    /// The node with all keys between the entry's before and its own.
    pub fn child(&self) -> Option<u64> {
        let at = self.bytes.len().checked_sub(8)?;
        (le16(self.bytes, 12) & HAS_CHILD != 0).then(|| le64(self.bytes, at))
    }
}
