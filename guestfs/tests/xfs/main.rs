//! XFS: volumes that mkfs.xfs and the kernel made, against their manifests and what the kernel shows; harmed ones; and
//! ones that were copied in use.

#[path = "../common/mod.rs"]
mod common;

mod dirty;
mod harmed;
mod kernel;
mod lab;
mod made;
mod refused;
mod speed;
mod tree;
mod version4;
