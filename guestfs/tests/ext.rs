//! ext2, ext3 and ext4.
mod common;
