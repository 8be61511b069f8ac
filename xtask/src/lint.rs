//! `cargo xtask lint`: formatting, clippy, documentation and dependencies, with warnings as errors.

use anyhow::Result;

use crate::{cmd, tidy};

/// Runs the subcommand.
pub fn run() -> Result<()> {
    tidy::run()?;
    cmd::run(cmd::cargo().args(["fmt", "--all", "--check"]))?;
    cmd::run(cmd::cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    let mut doc = cmd::cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"]);
    cmd::run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    if !cmd::has_cargo("deny") {
        println!("lint: cargo-deny is not installed: dependencies are not checked (cargo install cargo-deny)");
        return Ok(());
    }
    cmd::run(cmd::cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    // Advisories need their database, which a machine without network may lack.
    if let Err(error) = cmd::run(cmd::cargo().args(["deny", "check", "--disable-fetch", "advisories"])) {
        println!("lint: advisories not checked: {error:#}");
    }
    Ok(())
}
