//! `cargo xtask guests`: disks with guest filesystems, made by stock tools and the kernel, for tests and benchmarks.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};

use anyhow::{Context, Result};
use clap::Args;

use crate::cmd::{self, quoted_path};

/// Environment variable by which tests find the images.
pub const VARIABLE: &str = "REVENANT_GUEST_IMAGES";

/// Environment variable by which tests find the guest with the kernel's clients, and where it is made if nobody says.
pub const CLIENT: &str = "REVENANT_GUEST";
const CLIENT_FOLDER: &str = "target/lab/client-guest";

/// What tests need.
const FAMILIES: &str = "ext xfs btrfs ntfs fat exfat zfs lvm disks";

/// What to make.
#[derive(Debug, Args)]
pub struct Options {
    /// Families: ext xfs btrfs ntfs fat exfat zfs lvm disks formats big [default: all but big]
    families: Vec<String>,
}

/// Where the images are.
pub fn folder() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| cmd::target().join("guest-images"), PathBuf::from)
}

/// Runs the subcommand.
pub fn run(options: &Options) -> Result<()> {
    cmd::run(maker()?.args(&options.families))
}

/// Begins to make what tests need, beside other work. What is there already is kept.
pub fn begin() -> Result<Child> {
    let log = folder().with_extension("log");
    // One after the other, so that a family which cannot be made keeps no other away.
    let maker = maker()?;
    let client = client().map(|folder| {
        let script = cmd::root().join("tests/lab/make-client-guest.sh");
        format!("{} build {} || failed=1; ", quoted_path(&script), quoted_path(&folder))
    });
    // The disk that machines are booted from, in the same folder.
    let bootable = can_bootstrap().then(|| {
        let script = cmd::root().join("tests/lab/make-guest-vm.sh");
        format!("{} {} 2G || failed=1; ", quoted_path(&script), quoted_path(&folder().join("vm")))
    });
    let line = format!(
        "failed=0; {}{}for family in {FAMILIES}; do {} $family || failed=1; done; exit $failed",
        client.unwrap_or_default(),
        bootable.unwrap_or_default(),
        cmd::shown(&maker)
    );
    let mut script = cmd::command("sh", ["-c", &line]);
    println!("test: making guest images in {} (what comes of it: {})", folder().display(), log.display());
    let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    script.stdout(out.try_clone()?).stderr(out).spawn().context("cannot start the maker of guest images")
}

/// The folder of the guest with the kernel's clients, where it exists or can be made.
pub fn client() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(CLIENT) {
        return Some(folder.into());
    }
    can_bootstrap().then(|| cmd::root().join(CLIENT_FOLDER))
}

/// Whether a guest's system can be made of packages here.
fn can_bootstrap() -> bool {
    nix::unistd::geteuid().is_root() && cmd::find("mmdebstrap").is_some()
}

/// Waits until they are made. A machine that cannot make some (no loop devices, not root) skips their tests.
pub fn finish(mut maker: Child) -> Result<()> {
    let status = maker.wait()?;
    if !status.success() {
        println!(
            "test: not all guest images could be made on this machine ({status}): tests of the others are skipped"
        );
    }
    Ok(())
}

/// The maker of images; families are its arguments.
pub fn maker() -> Result<Command> {
    fs::create_dir_all(folder()).with_context(|| format!("cannot make {}", folder().display()))?;
    let mut script = Command::new(cmd::root().join("tests/lab/make-guest-images.sh"));
    script.arg("-o").arg(folder());
    Ok(script)
}
