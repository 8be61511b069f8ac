//! The pool's metadata ("MOS", meta object set) and its list of datasets ("DSL"): a tree of directories, each with a
//! dataset, its snapshots, and directories below it.

use std::sync::Arc;

use blockdev::{Error, ErrorKind, Result};

use super::{
    block_pointer::BlockPointer,
    dnode::Dnode,
    nvlist::NvList,
    objset::{Kind, Objset},
    order::Order,
    pool::Pool,
    vdev::{ENTRY, Mapping},
    zap::Zap,
};

/// Object that says where others are.
const DIRECTORY: u64 = 1;

// Types of a bonus.
const DSL_DIRECTORY: u8 = 12;
const DSL_DATASET: u8 = 16;

/// Bytes of the pool's configuration; that of a thousand devices has half a mebibyte.
const CONFIG_MAX: u64 = 16 << 20;

/// Entries of the table of a removed vdev, of 32 bytes in memory: one of a tebibyte has a tenth of them.
const REMOVED_MAX: u64 = 1 << 20;

/// The pool's metadata.
pub struct Mos {
    objset: Objset,
}

/// A directory of the tree of datasets.
#[derive(Debug, Clone, Copy)]
pub struct Directory {
    /// The dataset.
    pub head: u64,
    /// The directory above; 0 for the topmost.
    pub parent: u64,
    /// Names of directories below; 0 when there are none.
    pub children: u64,
    /// Bytes that it and all below it use.
    pub used: u64,
}

/// A dataset or a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Dataset {
    /// Its directory.
    pub directory: u64,
    /// Names of its snapshots; 0 when there are none.
    pub snapshots: u64,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Its set of objects.
    pub pointer: BlockPointer,
}

impl Mos {
    /// That at `pointer`.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(pool: &Arc<Pool>, pointer: &BlockPointer) -> Result<Self> {
        let objset = Objset::open(pool, pointer)?;
        if objset.kind != Kind::Meta {
            return Err(Error::damaged("the pool's metadata is something else"));
        }
        let mos = Self { objset };
        let salt = mos.with(DIRECTORY, |zap| zap.get(b"org.illumos:checksum_salt"))?;
        if let Some(salt) = salt {
            let bytes: Vec<u8> = salt.all().iter().map(|byte| *byte as u8).collect();
            let salt = bytes.first_chunk().ok_or_else(|| Error::damaged("the pool's salt is too short"))?;
            pool.checksums.set_salt(salt);
        }
        Ok(mos)
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.objset.pool
    }

    /// What `read` says of the list of names in object `number`.
    ///
    /// # Errors
    ///
    /// As `read`, and when there is no such list.
    pub fn with<T>(&self, number: u64, read: impl FnOnce(&Zap<'_>) -> Result<T>) -> Result<T> {
        let dnode = self.objset.object(number)?;
        read(&Zap::open(&self.objset.pool, &dnode)?)
    }

    /// The number that `name` has in the pool's directory.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn entry(&self, name: &str) -> Result<Option<u64>> {
        self.with(DIRECTORY, |zap| zap.number(name))
    }

    /// The topmost directory of datasets.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn root(&self) -> Result<u64> {
        self.entry("root_dataset")?.ok_or_else(|| Error::damaged("the pool has no topmost dataset"))
    }

    /// The configuration of the whole pool.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn config(&self) -> Result<NvList> {
        let number = self.entry("config")?.ok_or_else(|| Error::damaged("the pool has no configuration"))?;
        let dnode = self.objset.object(number)?;
        let size = dnode.order().u64(dnode.bonus(), 0);
        if size > CONFIG_MAX {
            return Err(Error::damaged(format!("the pool's configuration claims {size} bytes")));
        }
        NvList::parse(&dnode.head(&self.objset.pool, size as usize)?)
    }

    /// Reads where the blocks of removed vdevs went. Such a table may lie on a vdev that was removed later: it can be read
    /// once that one's is.
    pub fn map_removed(&self) {
        loop {
            let unmapped = self.pool().vdevs().unmapped();
            for (vdev, object) in &unmapped {
                if let Ok(mapping) = self.mapping(*object) {
                    self.pool().vdevs().set_mapping(*vdev, mapping);
                }
            }
            if self.pool().vdevs().unmapped().len() == unmapped.len() {
                return;
            }
        }
    }

    fn mapping(&self, object: u64) -> Result<Mapping> {
        let dnode = self.objset.object(object)?;
        // Behind the highest byte and the number of bytes that are in it.
        let entries = dnode.order().u64(dnode.bonus(), 16);
        if entries > REMOVED_MAX {
            let why = format!("the table of a removed vdev has {entries} entries");
            return Err(Error::new(ErrorKind::Limit, why));
        }
        let table = dnode.head(&self.objset.pool, entries as usize * ENTRY)?;
        let order = dnode.metadata(&self.objset.pool, 0)?.map_or(dnode.order(), |block| block.order);
        Mapping::parse(&table, order)
    }

    fn bonus(&self, number: u64, kind: u8, len: usize) -> Result<Dnode> {
        let dnode = self.objset.object(number)?;
        if dnode.bonus_kind() == kind && dnode.bonus().len() >= len {
            Ok(dnode)
        } else {
            Err(Error::damaged(format!("object {number} of the pool is no dataset")))
        }
    }

    /// Directory `number`.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is none.
    pub fn directory(&self, number: u64) -> Result<Directory> {
        let dnode = self.bonus(number, DSL_DIRECTORY, 48)?;
        let field = |at| dnode.order().u64(dnode.bonus(), at);
        Ok(Directory { head: field(8), parent: field(16), children: field(32), used: field(40) })
    }

    /// Dataset `number`.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is none.
    pub fn dataset(&self, number: u64) -> Result<Dataset> {
        const POINTER: usize = 128;
        let dnode = self.bonus(number, DSL_DATASET, POINTER + super::block_pointer::SIZE)?;
        let order: Order = dnode.order();
        let field = |at| order.u64(dnode.bonus(), at);
        let pointer = BlockPointer::parse(dnode.bonus(), POINTER, order);
        Ok(Dataset { directory: field(0), snapshots: field(32), created: field(48), pointer })
    }
}
