//! NTFS: trees that NTFS-3G and Windows made, against manifests made by others; and harmed ones.

mod common;

use common::*;

#[test]
fn lab_images() {
    for name in ["ntfs", "ntfs-1k", "ntfs-64k"] {
        assert_lab(name, |_| false);
    }
}
