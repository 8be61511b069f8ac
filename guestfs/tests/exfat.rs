//! exFAT.
mod common;

use common::*;

#[test]
fn lab_images() {
    assert_lab("exfat", |_| false);
}
