//! Support of the end-to-end tests: real Bacula volumes, the program `revenant`, and the comparison of what it gives
//! with what the manifests say was backed up.
//!
//! The volumes are those in `tests/data/bacula` and, where the environment variable `REVENANT_TESTDATA` names a folder
//! with more of them, those in its `bacula` folder. Nothing here shares code with the reader that is tested.

pub mod blocks;
pub mod case;
pub mod compare;
pub mod lab;
pub mod mounted;
pub mod parallel;
pub mod program;
pub mod random;

/// Whether this is root; owners, devices and trusted attributes are only compared then.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A temporary folder.
///
/// # Panics
///
/// When none can be made.
#[must_use]
pub fn temp() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("rvt.").tempdir().expect("a temporary folder")
}
