//! Random-access bytes: the waist through which every source meets every door.
//!
//! A backup file inside a Bacula volume, a disk image and a live VM's disk are all the same thing to
//! whoever reads them: a size and bytes at offsets. This crate says what that means ([`ReadAt`], [`BlockDevice`],
//! [`WriteAt`]) and what can go wrong ([`Error`]), reads the disk image formats ([`images`]), shows disks in them
//! ([`containers`]), finds the volumes on disks ([`partitions`]) and unlocks those that are encrypted ([`encrypted`]),
//! unpacks what is compressed ([`codec`]), has the layers that are put between a source and a door ([`layers`]), and the copy-on-write layer that makes a disk in a backup writable ([`overlay`]). It knows
//! nobody; everybody knows it.

pub mod codec;
pub mod compare;
pub mod containers;
pub mod copy;
mod device;
pub mod encrypted;
mod error;
mod extent;
pub mod fields;
pub mod file;
pub mod images;
pub mod layers;
pub mod origin;
pub mod overlay;
pub mod ovf;
pub mod partitions;
mod read_at;
mod shared;
pub mod zeros;

pub use device::{BlockDevice, BlockSizes, WriteAt};
pub use error::{Error, ErrorKind, Result};
pub use extent::{Extent, ExtentKind};
pub use read_at::{MappedRun, ReadAt};
