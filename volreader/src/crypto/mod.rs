//! Everything about keys: encrypted volumes ([`volume`]), encrypted and signed files ([`pki`], [`signature`]).
//!
//! Keys are wiped from memory when dropped and never part of `Debug` output or of messages.

pub mod pki;
pub mod signature;
pub mod volume;

use std::fmt;

/// Bytes in hex, for key identifiers in messages.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
