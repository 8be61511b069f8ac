//! File records: what the master file table is made of, and the attributes in one of them.

use blockdev::{
    Error, Result,
    fields::{le16, le32, le64, slice},
};

use super::{fixup, runs::Home};

/// Types of attributes.
pub mod kind {
    /// Times, flags, the number of the security descriptor.
    pub const STANDARD_INFORMATION: u32 = 0x10;
    /// Where the attributes are that do not fit the file's first record.
    pub const ATTRIBUTE_LIST: u32 = 0x20;
    /// A name in a directory.
    pub const FILE_NAME: u32 = 0x30;
    /// The security descriptor, in volumes without `$Secure`.
    pub const SECURITY_DESCRIPTOR: u32 = 0x50;
    /// The label.
    pub const VOLUME_NAME: u32 = 0x60;
    /// Version and state.
    pub const VOLUME_INFORMATION: u32 = 0x70;
    /// Content.
    pub const DATA: u32 = 0x80;
    /// The root of an index.
    pub const INDEX_ROOT: u32 = 0x90;
    /// The other nodes of an index.
    pub const INDEX_ALLOCATION: u32 = 0xa0;
    /// What the file stands for: a link, content elsewhere.
    pub const REPARSE_POINT: u32 = 0xc0;
    /// OS/2's extended attributes, which WSL keeps owner and mode in.
    pub const EA: u32 = 0xe0;
    /// No attribute: the end.
    pub const END: u32 = 0xffff_ffff;
}

/// Offsets in a file record.
mod field {
    pub const SEQUENCE: usize = 16;
    pub const ATTRIBUTES: usize = 20;
    pub const FLAGS: usize = 22;
    pub const USED: usize = 24;
    pub const BASE: usize = 32;
    pub const NUMBER: usize = 44;
    /// Where the update sequence array begins at the least if the head has the record's number (NTFS 3.1).
    pub const HEAD_3_1: u16 = 48;
}

const IN_USE: u16 = 1;
const IS_DIRECTORY: u16 = 2;

/// Which file record is meant, and how often it had been used for a new file by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference(pub u64);

impl Reference {
    /// Number of the record.
    pub const fn number(self) -> u64 {
        self.0 & 0xffff_ffff_ffff
    }

    /// Sequence number; 0 where none was kept.
    pub const fn sequence(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// A sound file record.
pub struct Record {
    number: u64,
    bytes: Vec<u8>,
    /// Where each attribute is.
    attributes: Vec<(u32, u32)>,
}

impl Record {
    /// The record `number` out of its stored bytes.
    pub fn parse(number: u64, mut bytes: Vec<u8>) -> Result<Self> {
        let told = |e: Error| e.context(format!("NTFS file record {number}"));
        fixup::restore(&mut bytes, b"FILE").map_err(told)?;
        let attributes = attributes(&bytes).map_err(told)?;
        let record = Self { number, bytes, attributes };
        let stored = le32(&record.bytes, field::NUMBER);
        if le16(&record.bytes, 4) >= field::HEAD_3_1 && stored != number as u32 {
            return Err(told(Error::damaged(format!("it says that it is number {stored}"))));
        }
        Ok(record)
    }

    /// Its number.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Its number and sequence number.
    pub fn reference(&self) -> Reference {
        Reference(self.number | u64::from(le16(&self.bytes, field::SEQUENCE)) << 48)
    }

    /// Whether there is a file in it.
    pub fn is_in_use(&self) -> bool {
        le16(&self.bytes, field::FLAGS) & IN_USE != 0
    }

    /// Whether the file is a directory.
    pub fn is_directory(&self) -> bool {
        le16(&self.bytes, field::FLAGS) & IS_DIRECTORY != 0
    }

    /// The first record of the file that this one extends; 0 in first records.
    pub fn base(&self) -> Reference {
        Reference(le64(&self.bytes, field::BASE))
    }

    /// Refuses what `reference` does not mean: a record that is free, or was used again since.
    pub fn expect(&self, reference: Reference) -> Result<()> {
        let told = |what: &str| Err(Error::damaged(format!("NTFS file record {}: {what}", self.number)));
        if !self.is_in_use() {
            return told("it is not in use");
        }
        if reference.sequence() != 0 && reference.sequence() != self.reference().sequence() {
            return told("it is of another file than the one referred to");
        }
        Ok(())
    }

    /// The part of an attribute at `home`, which is here.
    pub fn part(&self, home: &Home) -> Result<Attribute<'_>> {
        self.expect(home.record)?;
        // Records of the table itself name no first record: that is number 0.
        if self.base().number() != home.base.number() && self.reference() != home.base {
            return Err(Error::damaged(format!(
                "NTFS file record {} is a part of file {} and not of {}",
                self.number,
                self.base().number(),
                home.base.number()
            )));
        }
        let mut attributes = self.attributes();
        let part = attributes.find(|a| a.kind() == home.kind && a.instance() == home.instance);
        part.ok_or_else(|| {
            Error::damaged(format!("NTFS file record {} has no attribute {}", self.number, home.instance))
        })
    }

    /// The attributes in it.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'_>> {
        self.attributes.iter().map(|(at, len)| Attribute { bytes: slice(&self.bytes, *at as usize, *len as usize) })
    }
}

/// Where the attributes of a record are.
fn attributes(record: &[u8]) -> Result<Vec<(u32, u32)>> {
    let used = slice(record, 0, le32(record, field::USED) as usize);
    let (mut found, mut at) = (Vec::new(), usize::from(le16(record, field::ATTRIBUTES)));
    // The end has a mark of its own; where that is missing, the bytes in use end.
    while at.saturating_add(4) <= used.len() && le32(used, at) != kind::END {
        let len = le32(used, at + 4);
        let end = at.saturating_add(len as usize);
        if len < 24 || end > used.len() {
            return Err(Error::damaged(format!("the attribute at byte {at} has {len} bytes")));
        }
        let attribute = Attribute { bytes: slice(used, at, len as usize) };
        if attribute.name().len() != 2 * attribute.name_units() || (attribute.is_resident() && !attribute.has_value()) {
            return Err(Error::damaged(format!("the attribute at byte {at} reaches over its own end")));
        }
        found.push((at as u32, len));
        at = end;
    }
    Ok(found)
}

/// An attribute, or the part of one, as it is in a record.
#[derive(Clone, Copy)]
pub struct Attribute<'a> {
    bytes: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// Its type.
    pub fn kind(&self) -> u32 {
        le32(self.bytes, 0)
    }

    /// Whether its value is here.
    pub fn is_resident(&self) -> bool {
        self.bytes.get(8) == Some(&0)
    }

    fn name_units(&self) -> usize {
        self.bytes.get(9).copied().unwrap_or(0).into()
    }

    /// Its name in UTF-16LE.
    pub fn name(&self) -> &'a [u8] {
        slice(self.bytes, le16(self.bytes, 10).into(), 2 * self.name_units())
    }

    /// How its content is stored.
    pub fn flags(&self) -> u16 {
        le16(self.bytes, 12)
    }

    /// What tells it from the others of the record.
    pub fn instance(&self) -> u16 {
        le16(self.bytes, 14)
    }

    fn has_value(&self) -> bool {
        self.value().len() == le32(self.bytes, 16) as usize
    }

    /// The value, of a resident one.
    pub fn value(&self) -> &'a [u8] {
        slice(self.bytes, le16(self.bytes, 20).into(), le32(self.bytes, 16) as usize)
    }

    /// The first cluster of the content that this part says the place of; 0 for resident ones.
    pub fn lowest_vcn(&self) -> u64 {
        if self.is_resident() { 0 } else { le64(self.bytes, 16) }
    }

    /// The run list of this part.
    pub fn pairs(&self) -> &'a [u8] {
        self.bytes.get(usize::from(le16(self.bytes, 32))..).unwrap_or_default()
    }

    /// Clusters of a unit of compression are two to the power of this; 0: no units.
    pub fn unit_shift(&self) -> u8 {
        self.bytes.get(34).copied().unwrap_or(0)
    }

    /// Bytes that clusters are kept for, holes among them; the content's; those that were written; of the first part.
    pub fn sizes(&self) -> [u64; 3] {
        [40, 48, 56].map(|at| le64(self.bytes, at))
    }

    /// Bytes of the clusters that it really has, where it may have holes.
    pub fn packed_size(&self) -> u64 {
        le64(self.bytes, 64)
    }
}
