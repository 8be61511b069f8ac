//! The labels of a device: four copies, two at its start and two at its end, each with the configuration of the device's
//! top-level vdev and a ring of uberblocks, of which each transaction group writes the next.

use std::sync::Arc;

use blockdev::{BlockDevice, Result, fields::read};

use super::{
    block_pointer::BlockPointer,
    checksum::{Verifier, verify},
    nvlist::NvList,
    order::Order,
};

/// Bytes of a label: 8 KiB free, 8 KiB for a boot loader, the configuration, the ring.
const LABEL: u64 = 256 << 10;
const CONFIG: u64 = 16 << 10;
const CONFIG_SIZE: usize = 112 << 10;
const RING: u64 = 128 << 10;
const RING_SIZE: usize = 128 << 10;

/// Slots of the ring have the size of a sector, within these bounds.
const SLOT_SHIFTS: (u64, u64) = (10, 13);

const MAGIC: u64 = 0x00ba_b10c;

/// A slot of a ring with what claims to be an uberblock.
pub struct Slot {
    device: Arc<dyn BlockDevice>,
    offset: u64,
    size: usize,
    /// Transaction group, and when it was written in seconds since 1970.
    pub claims: (u64, u64),
}

/// Where the labels of a device are.
fn places(device: &dyn BlockDevice) -> Vec<u64> {
    let size = device.size() / LABEL * LABEL;
    let end = |n: u64| size.checked_sub(n * LABEL).filter(|at| *at >= 2 * LABEL);
    [Some(0), Some(LABEL), end(2), end(1)].into_iter().flatten().filter(|at| at + LABEL <= size).collect()
}

/// The configuration in the first sound label of `device`; `None` when there is none.
///
/// # Errors
///
/// When it cannot be read.
pub fn config(device: &dyn BlockDevice) -> Result<Option<NvList>> {
    for label in places(device) {
        let bytes = read(device, label + CONFIG, CONFIG_SIZE)?;
        if verify(&bytes, Verifier::Label(label + CONFIG)).is_some()
            && let Ok(config) = NvList::parse(&bytes)
        {
            return Ok(Some(config));
        }
    }
    Ok(None)
}

/// The slots of all rings of `device`, whose vdev has sectors of `1 << sector_shift` bytes.
///
/// # Errors
///
/// When they cannot be read.
pub fn slots(device: &Arc<dyn BlockDevice>, sector_shift: u64) -> Result<Vec<Slot>> {
    let size = 1_usize << sector_shift.clamp(SLOT_SHIFTS.0, SLOT_SHIFTS.1);
    let mut slots = Vec::new();
    for label in places(device.as_ref()) {
        let ring = read(device.as_ref(), label + RING, RING_SIZE)?;
        for (bytes, at) in ring.chunks_exact(size).zip((label + RING..).step_by(size)) {
            if let Some(order) = order(bytes) {
                let claims = (order.u64(bytes, 16), order.u64(bytes, 32));
                slots.push(Slot { device: Arc::clone(device), offset: at, size, claims });
            }
        }
    }
    Ok(slots)
}

/// The byte order of an uberblock.
fn order(bytes: &[u8]) -> Option<Order> {
    [Order::Little, Order::Big].into_iter().find(|order| order.u64(bytes, 0) == MAGIC)
}

impl Slot {
    /// Where the uberblock in it says that the pool's metadata is, when it is sound.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn root(&self) -> Result<Option<BlockPointer>> {
        let bytes = read(self.device.as_ref(), self.offset, self.size)?;
        let sound = verify(&bytes, Verifier::Label(self.offset)).and_then(|_| order(&bytes));
        Ok(sound.map(|order| BlockPointer::parse(&bytes, 40, order)))
    }
}
