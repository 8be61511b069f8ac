//! Room for what guests overwrite while they are backed up.
//!
//! What a guest overwrites is copied first. Where there is no room for the copy QEMU gives up the guest's write and not the
//! point in time: `blockdev-backup`, the only thing that makes points of several disks in one transaction, has no choice
//! there before QEMU 10.1 (`on-cbw-error` is one of the filter that it inserts, since 7.1, and the filter alone cannot be put
//! into several disks at one moment). A guest that gets "no space" is paused by its devices' usual policy (`werror=enospc`).
//! So it is not waited for that: a job is given up before.

use std::path::Path;

use rustix::fs::statvfs;

use crate::output::size;

/// What has to be left, in bytes; of a small filesystem only [`PART`] of it.
const RESERVE: u64 = 512 << 20;
/// A twentieth.
const PART: u64 = 20;

/// Why there is too little room in `folder`; `None` while there is enough, or nobody can tell.
pub fn shortage(folder: &Path) -> Option<String> {
    let known = statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(known.f_frsize);
    is_short(bytes(known.f_bavail), bytes(known.f_blocks)).then(|| {
        format!(
            "{} has no more than {} left, and what the guest overwrites during a backup goes there: make room, or name a \
             folder on a larger disk",
            folder.display(),
            size(bytes(known.f_bavail)),
        )
    })
}

fn is_short(left: u64, all: u64) -> bool {
    left < RESERVE.min(all / PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_little() {
        assert!(is_short(0, 32 << 20) && is_short(1 << 20, 32 << 20) && !is_short(2 << 20, 32 << 20));
        assert!(is_short(511 << 20, 1 << 40) && !is_short(512 << 20, 1 << 40));
        // One that does not tell.
        assert!(!is_short(0, 0));
        assert!(shortage(Path::new("/nonexistent")).is_none());
    }
}
