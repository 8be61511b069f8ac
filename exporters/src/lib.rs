//! Network servers through which hypervisors, guests and tools reach Revenant's block devices.
//!
//! An exporter knows [`blockdev`] and the protocol it speaks, and nothing of backups: what it serves is a
//! [`blockdev::BlockDevice`], or a [`blockdev::WriteAt`] where clients may write.

pub mod nbd;
