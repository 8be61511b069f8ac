//! `cargo xtask fuzz`: every target in `fuzz/fuzz_targets` for a while, with seeds from real volumes.

mod disk_seeds;
mod qcow2;
mod seeds;
mod vhd;
mod vmdk;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cmd;

/// Memory that a target may use before libFuzzer calls it a finding, MiB. Guests' images, unpacked, and the sanitizer take half of it.
const MEMORY_MAX_MIB: u32 = 1024;
/// Seconds that one input may take before it is a finding.
const INPUT_SECONDS_MAX: u32 = 10;

/// What to fuzz.
#[derive(Debug, Args)]
pub struct Options {
    /// Targets; all if none is named
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only write the seed corpus
    #[arg(long)]
    seed: bool,
}

/// Runs the subcommand.
pub fn run(options: &Options) -> Result<()> {
    let corpus = cmd::root().join("fuzz/corpus");
    if options.seed || !corpus.exists() {
        seeds::write(&corpus)?;
        vhd::write(&corpus)?;
        vmdk::write(&corpus)?;
        qcow2::write(&corpus)?;
        recorded(&corpus)?;
    }
    if options.seed {
        return Ok(());
    }
    let all = targets()?;
    if let Some(unknown) = options.targets.iter().find(|name| !all.contains(name)) {
        bail!("no target {unknown}; there are: {}", all.join(", "));
    }
    let nightly = cmd::command("cargo", ["+nightly", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !nightly.is_ok_and(|status| status.success()) {
        bail!("fuzzing needs a nightly toolchain: rustup toolchain install nightly");
    }
    if !cmd::has_cargo("fuzz") {
        cmd::run(&mut cmd::command("cargo", ["install", "--locked", "cargo-fuzz"]))?;
    }
    let mut failed = Vec::new();
    for target in all.iter().filter(|name| options.targets.is_empty() || options.targets.contains(name)) {
        fs::create_dir_all(corpus.join(target))?;
        let mut fuzz = cmd::command("cargo", ["+nightly", "fuzz", "run", target, "--"]);
        fuzz.arg(format!("-max_total_time={}", options.seconds));
        fuzz.arg(format!("-rss_limit_mb={MEMORY_MAX_MIB}"));
        fuzz.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        fuzz.arg("-print_final_stats=1");
        // libdeflate is linked once for Rust's side and once for C's: the address sanitizer takes that for a mistake.
        fuzz.env("ASAN_OPTIONS", "detect_odr_violation=0");
        // The toolchain that runs this program would override the one asked for.
        fuzz.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").current_dir(cmd::root());
        if let Err(error) = cmd::run(&mut fuzz) {
            println!("fuzz: {target}: {error:#}");
            failed.push(target.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("fuzz: findings in {}: see fuzz/artifacts", failed.join(", "));
    }
    Ok(())
}

/// Copies the seeds that were recorded once and are kept in `fuzz/seeds`, one folder a target.
fn recorded(corpus: &Path) -> Result<()> {
    for target in fs::read_dir(cmd::root().join("fuzz/seeds"))? {
        let target = target?;
        let folder = corpus.join(target.file_name());
        fs::create_dir_all(&folder)?;
        for seed in fs::read_dir(target.path())? {
            let seed = seed?;
            fs::copy(seed.path(), folder.join(seed.file_name()))?;
        }
    }
    Ok(())
}

fn targets() -> Result<Vec<String>> {
    let folder = cmd::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Whether `qemu-img` is here; without it there are no seeds for `targets`.
fn has_qemu_img(targets: &str) -> bool {
    let found = cmd::find("qemu-img").is_some();
    if !found {
        println!("fuzz: no qemu-img: no seeds for {targets}");
    }
    found
}
