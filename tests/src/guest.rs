//! A guest with nothing but a Linux kernel and BusyBox, for the kernel's own clients.
//!
//! `REVENANT_GUEST` names its folder, which `cargo xtask test` makes (`tests/lab/make-client-guest.sh`: root, mmdebstrap
//! and a minute). QEMU emulates its processor, so that no virtualization is needed; a boot takes some seconds.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use crate::{
    installed,
    program::{Run, run_within},
};

const LIMIT: Duration = Duration::from_secs(400);

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/make-client-guest.sh")
}

/// The guest's folder; says that `test` is skipped when there is none.
#[must_use]
pub fn folder(test: &str) -> Option<&'static Path> {
    static GUEST: OnceLock<Option<PathBuf>> = OnceLock::new();
    let guest = GUEST.get_or_init(|| {
        let folder = PathBuf::from(env::var_os("REVENANT_GUEST")?);
        if !installed("kernel clients", &["qemu-system-x86_64", "cpio", "zstd"]) {
            return None;
        }
        // What is written last.
        folder.join("stamp").exists().then_some(folder)
    });
    if guest.is_none() {
        eprintln!("SKIPPED: {test}: REVENANT_GUEST names no folder with a guest");
    }
    guest.as_deref()
}

/// Runs a shell script in the guest.
///
/// # Panics
///
/// When it cannot be started.
#[must_use]
pub fn run(guest: &Path, commands: &str) -> Run {
    let mut command = Command::new(script());
    command.arg("run").arg(guest).args(["--timeout", "360", "--", commands]);
    run_within(&mut command, LIMIT)
}
