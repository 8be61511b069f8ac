//! Checksums that lie in the block itself, in its last 40 bytes: those of labels, uberblocks and gang headers.
//!
//! Before it was computed, there lay in its place a *verifier* that no other block has, so that a sound block in the wrong
//! place is found out.

use super::{Words, sha256};
use crate::zfs::order::Order;

/// Bytes of magic number and checksum (`zio_eck`).
const TRAILER: usize = 40;
const MAGIC: u64 = 0x0210_da7a_b10c_7a11;

/// What lies in the place of the checksum when it is computed.
#[derive(Debug, Clone, Copy)]
pub enum Verifier {
    /// Of a label or an uberblock: its byte on the device.
    Label(u64),
    /// Of a gang header: vdev, byte and transaction group of its first copy.
    Gang(u32, u64, u64),
}

/// The byte order of `block`, when its checksum is right.
pub fn verify(block: &[u8], verifier: Verifier) -> Option<Order> {
    let trailer = block.len().checked_sub(TRAILER)?;
    let order = [Order::Little, Order::Big].into_iter().find(|order| order.u64(block, trailer) == MAGIC)?;
    let words: Words = match verifier {
        Verifier::Label(offset) => [offset, 0, 0, 0],
        Verifier::Gang(vdev, offset, born) => [u64::from(vdev), offset, born, 0],
    };
    let mut as_computed = block.get(..trailer + 8)?.to_vec();
    for word in words {
        as_computed.extend(match order {
            Order::Little => word.to_le_bytes(),
            Order::Big => word.to_be_bytes(),
        });
    }
    let right = sha256(&as_computed) == order.words(block, trailer + 8);
    (right || cfg!(fuzzing)).then_some(order)
}
