//! The content of an object as a map from its bytes to blocks.
//!
//! Every block has a checksum, so that none is plain bytes of a device: all of them are units to be read, checked and
//! unpacked. A block of more than a mebibyte is several units, because whoever keeps units keeps small ones; it is unpacked
//! once for all of them.

use std::sync::Arc;

use blockdev::{
    Error, ReadAt, Result,
    images::layer::{Layer, Place, Run, joined},
};

use super::{
    block_pointer::BlockPointer,
    dnode::{self, Dnode},
    pool::Pool,
};

/// Bytes of a unit.
const UNIT: u64 = 1 << 20;

/// The content of an object.
pub struct Content {
    pool: Arc<Pool>,
    dnode: Dnode,
    size: u64,
    /// Bytes of a block, and of a unit of it.
    block_size: u64,
    unit_size: u64,
    /// Units of a block.
    units: u64,
}

impl Content {
    /// The first `size` bytes of the content of `dnode`.
    pub fn new(pool: &Arc<Pool>, dnode: Dnode, size: u64) -> Self {
        let block_size = dnode.block_size().max(1);
        let unit_size = block_size.min(UNIT);
        Self { pool: Arc::clone(pool), dnode, size, block_size, unit_size, units: block_size.div_ceil(unit_size) }
    }

    /// The content of one whole unit and where it begins.
    fn piece(&self, offset: u64) -> Result<Run> {
        let (number, inside) = (offset / self.block_size, offset % self.block_size);
        Ok(match self.dnode.place(&self.pool, number).map_err(|e| self.placed(e, offset))? {
            dnode::Place::Hole(blocks) => {
                Run { len: blocks.saturating_mul(self.block_size).saturating_sub(inside), place: Place::Zero }
            }
            dnode::Place::At(_) => {
                let (unit, skip) = (inside / self.unit_size, inside % self.unit_size);
                let len = self.unit_size.min(self.block_size - unit * self.unit_size) - skip;
                let unit = number.saturating_mul(self.units).saturating_add(unit);
                Run { len, place: Place::Packed { unit, skip: skip as u32 } }
            }
        })
    }

    fn placed(&self, error: Error, offset: u64) -> Error {
        error.context(format!("byte {offset} of a file of {} bytes", self.size))
    }

    fn read(&self, pointer: &BlockPointer, unit: u64, out: &mut Vec<u8>) -> Result<()> {
        if self.units == 1 {
            return self.pool.read(pointer, out);
        }
        let block = self.pool.large(pointer)?;
        let start = (unit * self.unit_size) as usize;
        let rest = block.get(start..).unwrap_or_default();
        out.extend_from_slice(rest.get(..self.unit_size as usize).unwrap_or(rest));
        Ok(())
    }
}

impl Layer for Content {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        joined(offset, limit, self.size, |at| self.piece(at))
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &[]
    }

    fn unpack(&self, unit: u64, out: &mut Vec<u8>) -> Result<()> {
        let (number, unit) = (unit / self.units, unit % self.units);
        let offset = number.saturating_mul(self.block_size);
        let place = self.dnode.place(&self.pool, number);
        let read = place.and_then(|place| match place {
            dnode::Place::At(pointer) => self.read(&pointer, unit, out),
            dnode::Place::Hole(_) => Err(Error::invalid("there is no block")),
        });
        read.map_err(|e| self.placed(e, offset))
    }
}
