//! A dataset with files ("ZFS POSIX layer"): directories, and the attributes and content of files.

mod attributes;
mod directory;
mod xattr;

use blockdev::{Error, Result};

use self::attributes::Layouts;
use super::{content::Content, dnode::Dnode, objset::Objset, zap::Zap};
use crate::Kind;

/// Object that says where all others are.
const MASTER: u64 = 1;

/// The last version of the layout of files.
const VERSION_MAX: u64 = 5;

/// The files of a dataset.
pub struct Files {
    objset: Objset,
    /// The topmost directory.
    root: u64,
    /// How attributes are laid out; datasets before version 5 have one layout for all.
    layouts: Option<Layouts>,
}

impl Files {
    /// Those of `objset`.
    ///
    /// # Errors
    ///
    /// When they cannot be found, or are of a later version.
    pub fn open(objset: Objset) -> Result<Self> {
        let dnode = objset.object(MASTER)?;
        let master = Zap::open(&objset.pool, &dnode)?;
        let version = master.number("VERSION")?.unwrap_or(0);
        if !(1..=VERSION_MAX).contains(&version) {
            return Err(Error::unsupported(format!(
                "its files are of version {version}: 1 to {VERSION_MAX} can be read"
            )));
        }
        let root = master.number("ROOT")?.ok_or_else(|| Error::damaged("it has no topmost directory"))?;
        let layouts = master.number("SA_ATTRS")?.map(|number| Layouts::read(&objset, number)).transpose()?;
        Ok(Self { objset, root, layouts })
    }

    /// The topmost directory.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The content of the regular file `number`.
    ///
    /// # Errors
    ///
    /// When it is none, or cannot be read.
    pub fn content(&self, number: u64) -> Result<Content> {
        let dnode = self.object(number)?;
        let metadata = self.metadata_of(&dnode)?;
        if metadata.kind != Kind::File {
            return Err(Error::invalid("it is not a regular file"));
        }
        Ok(Content::new(&self.objset.pool, dnode, metadata.size))
    }

    /// Object `number`.
    fn object(&self, number: u64) -> Result<Dnode> {
        self.objset.object(number)
    }
}
