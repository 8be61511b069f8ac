//! `cargo xtask bench`: Revenant measured side by side with stock Bacula's tools and with plain reads.
//!
//! The volumes are made once ([`fixtures`]), every command is run several times with the page cache warm
//! ([`measure`]), and the tables ([`table`]) name each command as it was run.

mod backup;
mod data;
mod disks;
mod fixtures;
mod groups;
mod guests;
mod iscsi;
mod lab;
mod libvirt;
pub mod measure;
mod minimal_catalog;
mod nfs;
pub mod nfs_load;
mod recover;
mod server;
mod synthetic;
mod table;

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::cmd;
use fixtures::{Fixtures, Kind};
use groups::{Bench, GROUPS};

/// What to measure and how.
#[derive(Debug, Args)]
pub struct Options {
    /// Groups to measure (list, first-byte, sequential, fuse, extract, library, nbd, iscsi, nfs, convert, guests, recover, backup); all if none is named
    names: Vec<String>,
    /// Where the benchmark volumes are, or will be made: about 25 GiB [default: target/bench]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Digest in the volumes that stock Bacula writes: MD5, SHA1, SHA256, SHA512 or none
    #[arg(long, default_value = "MD5")]
    signature: String,
    /// Runs of each command; the median is shown
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Append the tables to docs/benchmarks.md
    #[arg(long)]
    write: bool,
    /// Only make the volumes, all or those named: big, gzip, lzo, guests, boot, sparse64, million
    #[arg(long, value_name = "VOLUME", num_args = 0..)]
    prepare: Option<Vec<String>>,
    /// The program to measure; built in release if not given
    #[arg(long)]
    revenant: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(options: &Options) -> Result<()> {
    let folder = options.dir.clone().unwrap_or_else(|| cmd::target().join("bench"));
    let fixtures = Fixtures::new(&folder, &options.signature)?;
    if let Some(names) = &options.prepare {
        return prepare(&fixtures, names);
    }
    ensure!(options.runs > 0, "--runs must be at least 1");
    if let Some(unknown) = options.names.iter().find(|name| GROUPS.iter().all(|(known, _)| known != name)) {
        bail!("no group {unknown}; there are: {}", GROUPS.map(|(name, _)| name).join(", "));
    }
    let revenant = match &options.revenant {
        Some(path) => path.canonicalize()?,
        None => cmd::build_revenant()?,
    };
    let revenant = revenant.to_string_lossy().into_owned();
    let lab = format!("{}/", cmd::root().join("tests/lab").display());
    let shorten = [(revenant.clone(), "revenant"), (fixtures.folder().to_string_lossy().into_owned(), "$B"), (lab, "")];
    let bench = Bench { fixtures, revenant, runs: options.runs };

    let mut text = format!("\n## Run of {}\n\nMedian of {} runs, page cache warm.\n\n", table::machine(), options.runs);
    for (name, group) in GROUPS {
        if options.names.is_empty() || options.names.iter().any(|wanted| wanted == name) {
            eprintln!("{name}");
            for table in group(&bench)? {
                text.push_str(&table.markdown(&shorten));
            }
        }
    }
    print!("{text}");
    if options.write {
        table::append(&cmd::root().join("docs/benchmarks.md"), &text)?;
    }
    Ok(())
}

fn prepare(fixtures: &Fixtures, names: &[String]) -> Result<()> {
    const KINDS: [(&str, Kind); 7] = [
        ("big", Kind::Big),
        ("gzip", Kind::Gzip),
        ("lzo", Kind::Lzo),
        ("guests", Kind::Guests),
        ("boot", Kind::Boot),
        ("sparse64", Kind::Sparse64),
        ("million", Kind::Million),
    ];
    if let Some(unknown) = names.iter().find(|name| KINDS.iter().all(|(known, _)| known != name)) {
        bail!("no volume {unknown}; there are: {}", KINDS.map(|(name, _)| name).join(", "));
    }
    for (name, kind) in KINDS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            let fixture = fixtures.get(kind)?;
            println!("{}", serde_json::to_string(&fixture)?);
        }
    }
    Ok(())
}
