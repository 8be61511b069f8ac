//! Boot traces kept in the cache: what each disk of a machine was read for when it was last started.
//!
//! They are of the machine and not of a point: what a system reads to start lies mostly where it lay a day ago. Like all
//! in the cache they can be deleted at any time.

use std::{
    fs,
    path::{Path, PathBuf},
};

use blockdev::{Error, Result, layers::Trace};

/// The longest file that is read, in bytes: more than a trace can have.
const LEN_MAX: u64 = 1 << 20;

/// Where the trace of a disk is kept.
fn path(cache: &Path, machine: &str, disk: &str) -> PathBuf {
    cache.join("boot-traces").join(format!("{}.trace", file_name(&format!("{machine}/{disk}"))))
}

/// A file name for a text: what of it is plain, and a number that tells it from others (FNV-1a).
pub fn file_name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' };
    let shown: String = text.chars().take(80).map(plain).collect();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{}-{hash:016x}", shown.trim_start_matches('.'))
}

/// The trace of a disk of `size` bytes; one of another size, and one that is damaged, is as if it were not there.
pub fn load(cache: &Path, machine: &str, disk: &str, size: u64) -> Option<Trace> {
    let path = path(cache, machine, disk);
    let is_short = fs::metadata(&path).ok()?.len() <= LEN_MAX;
    let bytes = fs::read(&path).ok().filter(|_| is_short)?;
    Trace::decode(&bytes).ok().filter(|trace| trace.size() == size)
}

/// Keep the trace of a disk.
///
/// # Errors
///
/// When it cannot be written.
pub fn save(cache: &Path, machine: &str, disk: &str, trace: &Trace) -> Result<()> {
    let path = path(cache, machine, disk);
    let fresh = path.with_extension("new");
    let folder = path.parent().unwrap_or(cache);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&fresh, trace.encode()))
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(|e| Error::io(format!("cannot keep the boot trace {}", path.display()), e))
}
