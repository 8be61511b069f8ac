//! Extended attributes: a packed list among the system attributes, and files in a hidden directory. A name in the list
//! hides that of a file.
//!
//! Linux stores names with their namespace, the others those of `user.` without. POSIX ACLs are attributes as others are,
//! in the kernel's form. NFSv4 ACLs, which every file has at least as a shadow of its mode, are left out: nothing on Linux
//! takes them.

use std::ops::ControlFlow;

use blockdev::{Error, ErrorKind, Result};

use super::{Files, attributes::Attribute};
use crate::{
    Kind, Stream, Xattr,
    zfs::{
        dnode::Dnode,
        nvlist::{NvList, Value},
        zap::Zap,
    },
};

/// Bytes of a value that Linux takes; larger ones are given as streams.
const VALUE_MAX: u64 = 64 << 10;

/// Bytes of all values of one file, and attributes of one file.
const VALUES_MAX: usize = 16 << 20;
const COUNT_MAX: usize = 1 << 14;

/// Namespaces of Linux.
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];

/// An extended attribute that is a file.
struct XattrFile {
    name: Vec<u8>,
    object: u64,
    dnode: Dnode,
    size: u64,
}

impl Files {
    /// The extended attributes of object `number`, those left out that are [`streams`](Self::streams).
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn xattrs(&self, number: u64) -> Result<Vec<Xattr>> {
        let dnode = self.object(number)?;
        let mut xattrs = Vec::new();
        if let Some((packed, _)) = self.attribute(&dnode, Attribute::Xattrs)? {
            for (name, value) in NvList::parse(&packed)?.iter() {
                if let Value::Bytes(value) = value {
                    xattrs.push(Xattr { name: full_name(name), value: value.clone() });
                }
            }
        }
        let mut total = 0;
        for file in self.xattr_files(&dnode)? {
            if file.size > VALUE_MAX || xattrs.iter().any(|known| known.name == file.name) {
                continue;
            }
            let value = file.dnode.head(&self.objset.pool, file.size as usize)?;
            total += value.len();
            if total > VALUES_MAX {
                return Err(Error::new(ErrorKind::Limit, "its extended attributes have too many bytes"));
            }
            xattrs.push(Xattr { name: file.name, value });
        }
        Ok(xattrs)
    }

    /// The extended attributes of object `number` that are too large for Linux.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn streams(&self, number: u64) -> Result<Vec<Stream>> {
        let files = self.xattr_files(&self.object(number)?)?.into_iter().filter(|file| file.size > VALUE_MAX);
        Ok(files.map(|file| Stream { name: file.name, size: file.size }).collect())
    }

    /// The object with the content of the extended attribute `name` of object `number`.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none; when it cannot be read.
    pub fn stream(&self, number: u64, name: &[u8]) -> Result<u64> {
        let files = self.xattr_files(&self.object(number)?)?;
        let found = files.into_iter().find(|file| file.name == name).map(|file| file.object);
        found.ok_or_else(|| Error::not_found(format!("there is no stream {:?}", String::from_utf8_lossy(name))))
    }

    fn xattr_files(&self, dnode: &Dnode) -> Result<Vec<XattrFile>> {
        let directory = self.attribute(dnode, Attribute::XattrDirectory)?;
        let directory = directory.map_or(0, |(number, order)| order.u64(&number, 0));
        let mut files = Vec::new();
        if directory == 0 {
            return Ok(files);
        }
        let dnode = self.object(directory)?;
        Zap::open(&self.objset.pool, &dnode)?.list(0, &mut |entry| {
            let object = entry.value.one().unwrap_or(0) & ((1 << 48) - 1);
            // Solaris keeps there what it shows of the file's own attributes.
            if entry.name.starts_with(b"SUNWattr_") {
                return Ok(ControlFlow::Continue(()));
            }
            let dnode = self.object(object)?;
            let metadata = self.metadata_of(&dnode)?;
            if metadata.kind == Kind::File {
                files.push(XattrFile { name: full_name(&entry.name), object, dnode, size: metadata.size });
            }
            if files.len() > COUNT_MAX {
                return Err(Error::new(ErrorKind::Limit, "it has too many extended attributes"));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(files)
    }
}

/// `name` with its namespace.
fn full_name(name: &[u8]) -> Vec<u8> {
    if NAMESPACES.iter().any(|namespace| name.starts_with(namespace)) {
        name.to_vec()
    } else {
        [b"user.", name].concat()
    }
}
