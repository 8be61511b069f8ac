//! Attribute lists: where the attributes of a file are that has more than fit one record.

use blockdev::{
    Error, ErrorKind, Result,
    fields::{le16, le32, le64, slice},
};

use super::{
    mft::Clusters,
    record::{Record, Reference, kind},
    runs::Extents,
};

/// The longest list that is read. Windows makes none above 256 KiB.
const LIST_MAX: u64 = 1 << 20;

/// A sound attribute list.
pub struct List {
    bytes: Vec<u8>,
}

/// An attribute, or the part of one, in a list.
#[derive(Clone, Copy)]
pub struct Listed<'a> {
    bytes: &'a [u8],
}

impl List {
    /// That of the file with the first record `base`, if it has one.
    pub fn of(base: &Record, clusters: &Clusters) -> Result<Option<Self>> {
        let Some(attribute) = base.attributes().find(|a| a.kind() == kind::ATTRIBUTE_LIST) else { return Ok(None) };
        let told = |e: Error| e.context(format!("NTFS attribute list of file record {}", base.number()));
        if attribute.is_resident() {
            return Self::parse(attribute.value().to_vec()).map(Some).map_err(told);
        }
        let [_, size, initialized] = attribute.sizes();
        if size > LIST_MAX || initialized < size {
            return Err(told(Error::new(ErrorKind::Limit, format!("{initialized} of {size} bytes"))));
        }
        let extents = Extents::decode(attribute.pairs(), 0, clusters.geometry.clusters).map_err(told)?;
        let mut bytes = vec![0; size as usize];
        clusters.read(&extents, 0, &mut bytes).map_err(told)?;
        Self::parse(bytes).map(Some).map_err(told)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self> {
        let list = Self { bytes };
        let mut end = 0;
        for entry in list.entries() {
            end += entry.bytes.len();
            if entry.bytes.len() < 26 || entry.name().len() != 2 * entry.name_units() {
                return Err(Error::damaged(format!("the entry before byte {end} is cut off")));
            }
        }
        // Less than the head of an entry may be left.
        if list.bytes.len() - end >= 8 {
            return Err(Error::damaged(format!("the entry at byte {end} goes wrong")));
        }
        Ok(list)
    }

    /// The entries in their order: by type, name and cluster.
    pub fn entries(&self) -> impl Iterator<Item = Listed<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let len = usize::from(le16(rest, 4));
            let (bytes, tail) = rest.split_at_checked(len).filter(|_| len > 0)?;
            rest = tail;
            Some(Listed { bytes })
        })
    }
}

impl<'a> Listed<'a> {
    /// Type of the attribute.
    pub fn kind(&self) -> u32 {
        le32(self.bytes, 0)
    }

    fn name_units(&self) -> usize {
        self.bytes.get(6).copied().unwrap_or(0).into()
    }

    /// Its name in UTF-16LE.
    pub fn name(&self) -> &'a [u8] {
        slice(self.bytes, self.bytes.get(7).copied().unwrap_or(0).into(), 2 * self.name_units())
    }

    /// The first cluster of the content that the part says the place of.
    pub fn lowest_vcn(&self) -> u64 {
        le64(self.bytes, 8)
    }

    /// The record it is in.
    pub fn record(&self) -> Reference {
        Reference(le64(self.bytes, 16))
    }

    /// What tells it from the others of that record.
    pub fn instance(&self) -> u16 {
        le16(self.bytes, 24)
    }
}
