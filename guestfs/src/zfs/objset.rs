//! Sets of objects: each dataset is one, and the pool's metadata ("MOS"). Object number `n` is described in slot `n` of a
//! table, which is an object itself.

use std::sync::Arc;

use blockdev::{Error, Result};

use super::{
    block_pointer::BlockPointer,
    dnode::{Dnode, SLOT},
    pool::Pool,
};

/// Object numbers there can be: directory entries have 48 bits.
const OBJECTS_MAX: u64 = 1 << 48;

/// What a set of objects is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The pool's own.
    Meta,
    /// A tree of files.
    Files,
    /// A volume.
    Volume,
    /// Something else, by its number.
    Other(u64),
}

/// A set of objects.
pub struct Objset {
    /// Its pool.
    pub pool: Arc<Pool>,
    /// What it is.
    pub kind: Kind,
    /// Its intent log; a hole where it has none.
    pub log: BlockPointer,
    table: Dnode,
}

impl Objset {
    /// The set at `pointer`.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(pool: &Arc<Pool>, pointer: &BlockPointer) -> Result<Self> {
        // After the dnode of the table: the header of the intent log (claim, sequence, pointer to it), and the type.
        const LOG: usize = SLOT + 16;
        const KIND: usize = 704;
        if pointer.is_hole() {
            return Err(Error::damaged("a set of objects is nowhere"));
        }
        let block = pool.metadata(pointer)?;
        if block.len() < KIND + 8 {
            return Err(Error::damaged("a set of objects is too small"));
        }
        let kind = match block.u64(KIND) {
            1 => Kind::Meta,
            2 => Kind::Files,
            3 => Kind::Volume,
            other => Kind::Other(other),
        };
        let log = block.pointer(LOG);
        let table = Dnode::parse(block, 0)?;
        Ok(Self { pool: Arc::clone(pool), kind, log, table })
    }

    /// Object `number`.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none; when its description cannot be read.
    pub fn object(&self, number: u64) -> Result<Dnode> {
        let slots = self.table.block_size() / SLOT as u64;
        if number == 0 || number >= OBJECTS_MAX || slots == 0 {
            return Err(Error::not_found(format!("there is no object {number}")));
        }
        let block = self.table.metadata(&self.pool, number / slots)?;
        let block = block.ok_or_else(|| Error::not_found(format!("there is no object {number}")))?;
        let at = (number % slots) as usize * SLOT;
        Dnode::parse(block, at).map_err(|e| e.context(format!("object {number}")))
    }
}
