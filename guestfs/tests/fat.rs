//! FAT12, FAT16 and FAT32.
mod common;

use common::*;

#[test]
fn lab_images() {
    for name in ["fat12", "fat16", "fat32"] {
        assert_lab(name, |_| false);
    }
}
