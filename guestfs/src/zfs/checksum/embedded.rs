//! Checksums that lie in the block itself: those of labels, uberblocks, gang headers and intent logs.
//!
//! Before it was computed, there lay in its place a *verifier* that no other block has, so that a sound block in the wrong
//! place, or of an earlier use of the place, is found out.

use super::{Words, fletcher, sha256};
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
    /// Of a block of an intent log: what its pointer has as checksum, and the byte of the block where its own is.
    Log(Words, usize),
}

/// The byte order of `block`, when its checksum is right.
pub fn verify(block: &[u8], verifier: Verifier) -> Option<Order> {
    let at = match verifier {
        Verifier::Log(_, at) => at,
        Verifier::Label(_) | Verifier::Gang(..) => block.len().checked_sub(TRAILER)?,
    };
    let order = [Order::Little, Order::Big].into_iter().find(|order| order.u64(block, at) == MAGIC)?;
    let words: Words = match verifier {
        Verifier::Label(offset) => [offset, 0, 0, 0],
        Verifier::Gang(vdev, offset, born) => [u64::from(vdev), offset, born, 0],
        Verifier::Log(words, _) => words,
    };
    let mut as_computed = block.to_vec();
    let place = as_computed.get_mut(at + 8..at + TRAILER)?;
    for (place, word) in place.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = match order {
            Order::Little => word.to_le_bytes(),
            Order::Big => word.to_be_bytes(),
        };
    }
    let sum = match verifier {
        Verifier::Label(_) | Verifier::Gang(..) => sha256(&as_computed),
        // That of the older form is at its end.
        Verifier::Log(_, at) if at + TRAILER == block.len() => fletcher::two(&as_computed, order),
        Verifier::Log(..) => fletcher::four(&as_computed, order),
    };
    let right = sum == order.words(block, at + 8);
    (right || cfg!(fuzzing)).then_some(order)
}
