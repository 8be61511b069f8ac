//! XFS.
mod common;

use common::assert_lab;

fn extra(path: &str) -> bool {
    path.is_empty()
}

#[test]
fn lab_images() {
    for name in ["xfs-v4", "xfs-v4-ftype", "xfs-v5", "xfs-v5-1k", "xfs-v5-bigtime"] {
        assert_lab(name, extra);
    }
}
