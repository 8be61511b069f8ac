//! Network servers through which hypervisors, guests and tools reach what Revenant shows.
//!
//! [`nbd`] and [`iscsi`] serve disks: a [`blockdev::BlockDevice`], or a [`blockdev::WriteAt`] where clients may write; [`scsi`]
//! is what iSCSI carries. [`nfs`] serves files: a directory of the tree. None knows anything of backups. `net` is what
//! they have in common.

mod disk;
pub mod iscsi;
pub mod nbd;
mod net;
pub mod nfs;
pub mod scsi;

pub use disk::Disk;
