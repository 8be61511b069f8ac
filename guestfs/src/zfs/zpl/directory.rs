//! Directories: lists of names with object numbers, whose upper bits tell the type. Symbolic links, too.

use std::ops::ControlFlow;

use blockdev::{Error, Result};

use super::{
    Files,
    attributes::{Attribute, kind},
};
use crate::{Kind, zfs::zap::Zap};

/// Bytes of a link's target: what a path may have, and some more.
const TARGET_MAX: u64 = 64 << 10;

/// Bits of an entry that number the object; the highest four tell the type.
const OBJECT: u64 = (1 << 48) - 1;

/// An entry: name, object, type, and where to go on.
pub type Line = (Vec<u8>, u64, Kind, u64);

impl Files {
    /// The object called `name` of directory `number`.
    ///
    /// # Errors
    ///
    /// When it is not a directory, or cannot be read.
    pub fn lookup(&self, number: u64, name: &[u8]) -> Result<Option<u64>> {
        let dnode = self.directory(number)?;
        let value = Zap::open(&self.objset.pool, &dnode)?.get(name)?;
        Ok(value.and_then(|value| value.one()).map(|value| value & OBJECT))
    }

    /// Calls `sink` for the entries of directory `number` after the one with the cookie `cookie`, until it breaks.
    ///
    /// # Errors
    ///
    /// When it is not a directory, or cannot be read.
    pub fn list(&self, number: u64, cookie: u64, sink: &mut dyn FnMut(Line) -> Result<ControlFlow<()>>) -> Result<()> {
        let dnode = self.directory(number)?;
        Zap::open(&self.objset.pool, &dnode)?.list(cookie, &mut |entry| {
            let value = entry.value.one().ok_or_else(|| Error::damaged("an entry of a directory has no number"))?;
            // The first version of the layer did not tell the type here.
            let kind = kind(value >> 60).map_or_else(|| self.kind_of(value & OBJECT), Ok)?;
            sink((entry.name, value & OBJECT, kind, entry.cookie))
        })
    }

    /// The type of object `number`; what cannot be read is shown as a file that gives the error.
    fn kind_of(&self, number: u64) -> Result<Kind> {
        Ok(self.metadata(number).map_or(Kind::File, |metadata| metadata.kind))
    }

    fn directory(&self, number: u64) -> Result<crate::zfs::dnode::Dnode> {
        let dnode = self.object(number)?;
        match self.metadata_of(&dnode)?.kind {
            Kind::Dir => Ok(dnode),
            _ => Err(Error::invalid("it is not a directory")),
        }
    }

    /// What the symbolic link `number` points to.
    ///
    /// # Errors
    ///
    /// When it is not a symbolic link, or cannot be read.
    pub fn link_target(&self, number: u64) -> Result<Vec<u8>> {
        let dnode = self.object(number)?;
        let metadata = self.metadata_of(&dnode)?;
        if metadata.kind != Kind::Symlink {
            return Err(Error::invalid("it is not a symbolic link"));
        }
        if metadata.size > TARGET_MAX {
            return Err(Error::damaged(format!("the target of a symbolic link claims {} bytes", metadata.size)));
        }
        let size = metadata.size as usize;
        // Old long ones are in the content.
        match self.attribute(&dnode, Attribute::Target)? {
            Some((mut target, _)) if target.len() >= size => {
                target.truncate(size);
                Ok(target)
            }
            _ => dnode.head(&self.objset.pool, size),
        }
    }
}
