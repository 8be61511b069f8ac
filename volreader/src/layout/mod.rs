//! Where the bytes of a file lie, by arithmetic.
//!
//! The Storage daemon packs records into blocks by fixed rules, so for a run of records of equal length the
//! place of every one follows from the place of the first: [`clock`].

pub mod clock;
pub mod segments;
