//! Support of the end-to-end tests: real Bacula volumes, the program `revenant`, and the comparison of what it gives
//! with what the manifests say was backed up.
//!
//! The volumes are those in `tests/data/bacula` and, where the environment variable `REVENANT_TESTDATA` names a folder
//! with more of them, those in its `bacula` folder. Nothing here shares code with the reader that is tested.

pub mod agent;
pub mod backup_scene;
pub mod blocks;
pub mod case;
pub mod compare;
pub mod gate;
pub mod guest;
pub mod lab;
pub mod libvirt;
pub mod live_vm;
pub mod mounted;
pub mod parallel;
pub mod program;
pub mod random;
pub mod recovery;
pub mod served;
pub mod tiny_guest;

/// Whether this is root; owners, devices and trusted attributes are only compared then.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the tree can be mounted here, and all of `programs` are installed; says that `test` is skipped otherwise.
#[must_use]
pub fn can_mount(test: &str, programs: &[&str]) -> bool {
    let can = is_root() && std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !can {
        eprintln!("SKIPPED: {test}: needs root and /dev/fuse");
    }
    can && installed(test, programs)
}

/// Whether all of `programs` are installed; says that `test` is skipped otherwise.
#[must_use]
pub fn installed(test: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = || std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let missing: Vec<_> = programs.iter().filter(|p| !folders().any(|folder| folder.join(p).is_file())).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: {test}: {missing:?} is not installed");
    }
    missing.is_empty()
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
