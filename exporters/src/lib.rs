//! Network servers through which hypervisors, guests and tools reach what Revenant shows.
//!
//! [`nbd`] serves disks: a [`blockdev::BlockDevice`], or a [`blockdev::WriteAt`] where clients may write. [`nfs`] serves
//! files: a directory of the tree. Neither knows anything of backups. `net` is what they have in common.

pub mod nbd;
mod net;
pub mod nfs;
