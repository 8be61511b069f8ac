//! ext2, ext3 and ext4: volumes of the lab and of other people against their manifests, volumes of every shape that
//! `mkfs` offers against what the kernel says of them, journals that the kernel left behind, and damage.

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod encrypted;
mod journal;
mod kernel;
mod made;
mod real;
