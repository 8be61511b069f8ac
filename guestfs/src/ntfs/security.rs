//! Security descriptors: in `$Secure` once for all files with the same, which know them by number.

use std::sync::Arc;

use blockdev::{
    Error, ErrorKind, ReadAt, Result,
    fields::{le32, le64},
    images::Disk,
};

use super::{
    file::File,
    index::{Index, Nodes, Walk},
    kept::{Kept, Weight},
    record::kind,
};

/// `$SDS` and `$SII` in UTF-16LE: the descriptors, and the index of their numbers.
const SDS: &[u8] = b"$\0S\0D\0S\0";
const SII: &[u8] = b"$\0S\0I\0I\0";

/// Bytes before a descriptor in `$SDS`: hash, number, offset and size.
const HEAD: usize = 20;

/// The longest descriptor there is.
pub const DESCRIPTOR_MAX: usize = 64 << 10;

/// Memory for descriptors and for nodes of the index, in bytes.
const KEPT_MAX: u64 = 4 << 20;

/// The file `$Secure`.
pub struct Secure {
    descriptors: Disk,
    index: Index,
    nodes: Nodes,
    kept: Kept<u32, Descriptor>,
}

/// A security descriptor in self-relative form; `None` where a number has none.
pub struct Descriptor(pub Option<Vec<u8>>);

impl Weight for Descriptor {
    fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, Vec::len)
    }
}

impl Secure {
    /// That in `file`; `None` before NTFS 3.0, when each file had its own descriptor.
    pub fn of(file: &File) -> Result<Option<Self>> {
        let Some(descriptors) = file.value(kind::DATA, SDS)? else { return Ok(None) };
        Ok(Some(Self {
            descriptors: descriptors.reader(file.mft())?,
            index: Index::of(file, SII)?,
            nodes: Nodes::new(KEPT_MAX),
            kept: Kept::new(KEPT_MAX),
        }))
    }

    /// The descriptor number `id`.
    pub fn descriptor(&self, id: u32) -> Result<Arc<Descriptor>> {
        self.kept.get(&id, || {
            let mut walk = Walk::from(&self.index, &self.nodes, |entry| le32(entry.key(), 0) < id)?;
            let Some((node, place)) = walk.next()? else { return Ok(Descriptor(None)) };
            let Some(entry) = node.entry_at(place.at).filter(|entry| le32(entry.key(), 0) == id) else {
                return Ok(Descriptor(None));
            };
            let (offset, size) = (le64(entry.data(), 8), le32(entry.data(), 16) as usize);
            self.read(id, offset, size).map(|bytes| Descriptor(Some(bytes)))
        })
    }

    fn read(&self, id: u32, offset: u64, size: usize) -> Result<Vec<u8>> {
        if size > DESCRIPTOR_MAX + HEAD {
            return Err(Error::new(ErrorKind::Limit, format!("security descriptor {id} of $Secure has {size} bytes")));
        }
        let mut bytes = vec![0; size];
        let n = self.descriptors.read_at(&mut bytes, offset)?;
        if n < size || size < HEAD || le32(&bytes, 4) != id {
            return Err(Error::damaged(format!("security descriptor {id} of $Secure is not at byte {offset}")));
        }
        Ok(bytes.split_off(HEAD))
    }
}
