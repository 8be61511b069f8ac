//! NTFS: trees that NTFS-3G and Windows made, against what others say of them; and harmed ones.

#[path = "../common/mod.rs"]
mod common;

mod foreign;
mod harmed;
mod lab;
mod made;
mod mounted;
mod speed;
mod wof;
