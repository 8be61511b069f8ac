//! A file: its first record, and all attributes in it and in the records that extend it.

use std::sync::Arc;

use blockdev::{Error, Result};

use super::{
    list::{List, Listed},
    mft::Mft,
    names::FileName,
    record::{Attribute, Record, Reference, kind},
    runs::{Extents, Home, Part, Runs, Source},
    value::{Body, Stored, Value},
};

/// A file.
pub struct File {
    mft: Arc<Mft>,
    base: Record,
    list: Option<List>,
}

impl File {
    /// The file that `reference` means.
    pub fn open(mft: &Arc<Mft>, reference: Reference) -> Result<Self> {
        let base = mft.record(reference.number())?;
        base.expect(reference)?;
        if base.base().number() != 0 {
            return Err(Error::damaged(format!("NTFS file record {} is a part of another file", base.number())));
        }
        let list = List::of(&base, &mft.clusters)?;
        Ok(Self { mft: Arc::clone(mft), base, list })
    }

    /// Its first record.
    pub fn record(&self) -> &Record {
        &self.base
    }

    /// The master file table.
    pub const fn mft(&self) -> &Arc<Mft> {
        &self.mft
    }

    /// An error, told as one of this file.
    pub fn told(&self, error: Error) -> Error {
        error.context(format!("NTFS file record {}", self.base.number()))
    }

    /// The attribute of type `kind` called `name` (in UTF-16LE), if there is one.
    pub fn value(&self, kind: u32, name: &[u8]) -> Result<Option<Value>> {
        let Some(list) = &self.list else {
            let attribute = self.base.attributes().find(|a| a.kind() == kind && a.name() == name);
            return attribute.map(|a| self.whole(a, &mut std::iter::empty())).transpose();
        };
        let mut parts = list.entries().filter(|entry| entry.kind() == kind && entry.name() == name);
        let Some(first) = parts.next() else { return Ok(None) };
        self.with(&first, |attribute| self.whole(attribute, &mut parts)).map(Some)
    }

    /// All values of the attributes of type `kind` that are in records, with their names.
    pub fn for_each(&self, kind: u32, mut sink: impl FnMut(Attribute<'_>) -> Result<()>) -> Result<()> {
        match &self.list {
            None => self.base.attributes().filter(|a| a.kind() == kind).try_for_each(sink),
            Some(list) => {
                let mut entries = list.entries().filter(|entry| entry.kind() == kind && entry.lowest_vcn() == 0);
                entries.try_for_each(|entry| self.with(&entry, &mut sink))
            }
        }
    }

    /// How many names it has, those for DOS not counted.
    pub fn links(&self) -> Result<u32> {
        let mut links = 0;
        self.for_each(kind::FILE_NAME, |attribute| {
            links += u32::from(FileName::parse(attribute.value()).is_some_and(|name| !name.is_for_dos()));
            Ok(())
        })?;
        Ok(links)
    }

    fn home(&self, listed: &Listed<'_>) -> Home {
        let base = self.base.reference();
        Home { record: listed.record(), base, kind: listed.kind(), instance: listed.instance() }
    }

    fn with<T>(&self, listed: &Listed<'_>, then: impl FnOnce(Attribute<'_>) -> Result<T>) -> Result<T> {
        let home = self.home(listed);
        if home.record.number() == self.base.number() {
            return then(self.base.part(&home)?);
        }
        then(self.mft.record(home.record.number())?.part(&home)?)
    }

    /// The attribute whose first part is `first`; `more` are its further parts.
    fn whole(&self, first: Attribute<'_>, more: &mut dyn Iterator<Item = Listed<'_>>) -> Result<Value> {
        let flags = first.flags();
        if first.is_resident() {
            return Ok(Value { flags, body: Body::Here(first.value().to_vec()) });
        }
        if first.lowest_vcn() != 0 {
            return Err(self.told(Error::damaged(format!("the start of attribute {:#x} is missing", first.kind()))));
        }
        let extents = Extents::decode(first.pairs(), 0, self.mft.clusters.geometry.clusters);
        let extents = extents.map_err(|e| self.told(e))?;
        let mut parts = vec![Part { first: 0, source: Source::Here(Arc::new(extents)) }];
        for listed in more {
            let part = Part { first: listed.lowest_vcn(), source: Source::There(self.home(&listed)) };
            if parts.last().is_some_and(|before| before.first >= part.first) {
                return Err(self.told(Error::damaged("its attribute list is out of order")));
            }
            parts.push(part);
        }
        let [allocated, size, initialized] = first.sizes();
        let (packed, unit_shift) = (first.packed_size(), first.unit_shift());
        let (file, runs) = (self.base.number(), Runs::new(parts));
        Ok(Value { flags, body: Body::There(Stored { file, allocated, size, initialized, packed, unit_shift, runs }) })
    }
}
