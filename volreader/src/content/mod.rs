//! The content of a backup file, read at any offset.
//!
//! From the outside in: the payload of the data records ([`raw`]), its offsets (sparse), its encryption, its
//! compression, its BackupRead framing. What is uncompressed is read where it lies; what has to be decoded is
//! decoded piece by piece, each piece alone.

pub mod ahead;
pub mod compressed;
pub mod encrypted;
pub mod pieces;
pub mod raw;
pub mod sparse;
pub mod verbatim;
pub mod windows;
