//! ReFS 1.x and 3.x: experimental.
//!
//! Microsoft has published no description of ReFS. What is known was found out by others from volumes and from the driver:
//! the documentation of libyal's libfsrefs (2023), Prade, Groß and Dewald, "Forensic Analysis of the Resilient File
//! System (ReFS) Version 3.4" (2020), the documentation of forefst (2026) and refsprogs (2025). Where they differ, the
//! bytes decide: by what lengths and values are plausible, never by the version, since a newer Windows raises the
//! version of a volume and leaves old structures in place.
//!
//! Everything is a B+ tree. A superblock at a fixed place names two checkpoints; the newer one names the roots of the
//! trees. One tree has the objects, each of which is a tree again: a directory has its files as rows, and a file's row
//! has its attributes as a tree of its own. In version 3 the numbers of clusters are virtual: another tree says where the
//! container of 64 MiB is that a cluster lies in.
//!
//! * `boot`: the boot sector; `anchor`: superblocks and checkpoints;
//! * `page`: pages of metadata, their references and checksums; `container`: from virtual clusters to places;
//! * `node`: rows in a node; `tree`: rows of a tree, in order or by key;
//! * `entry`: files in a directory; `attribute`: what a file's tree has; `stream`: the content of files;
//! * `reparse`: links; `volume`: the filesystem.
//!
//! # What is shown, and how
//!
//! * [`FileId`](crate::FileId) of a directory: tree 0, and the number of its object. Of a file: the object of the
//!   directory that has it as `tree`, and its place in that directory's tree as `number`. Hard links (of volumes that
//!   were made as 3.14) are therefore shown as different files.
//! * Behind the valid length of a stream, and where no extent is, there are zeros.
//! * Not read: extended attributes, security descriptors, snapshots of streams. Refused: content that is compressed,
//!   encrypted or elsewhere (deduplicated).

mod anchor;
mod attribute;
mod boot;
mod container;
mod entry;
mod node;
mod page;
mod reparse;
mod stream;
mod tree;
mod volume;

use std::sync::Arc;

use blockdev::{BlockDevice, Result};

use crate::FileSystem;

/// The filesystem on `device`.
///
/// # Errors
///
/// When it is not one, or has features that cannot be read.
pub fn open(device: Arc<dyn BlockDevice>) -> Result<Arc<dyn FileSystem>> {
    Ok(Arc::new(volume::Refs::open(device)?))
}
