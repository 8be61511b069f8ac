//! Development tasks: `cargo xtask <task>`.
//!
//! One task, one module; everything that runs another program goes through [`cmd`], which shows what it runs.

mod bench;
mod cmd;
mod corpus;
mod demo;
mod fuzz;
mod guests;
mod lint;
mod mounted;
mod setup;
mod test;
mod tidy;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Set-up, tests, demonstration, benchmarks and fuzzing of Revenant
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what tests and benchmarks use: Debian packages and a stock Bacula
    Setup,
    /// Set up, then run all tests
    Test(test::Options),
    /// Mount the volumes in tests/data, look around, restore, compare
    Demo(demo::Options),
    /// Measure Revenant beside stock Bacula's tools
    Bench(bench::Options),
    /// Fuzz the parsers, a minute each
    Fuzz(fuzz::Options),
    /// Make disks with guest filesystems for tests and benchmarks
    Guests(guests::Options),
    /// Formatting, clippy, documentation, dependencies
    Lint,
    /// Check the source tree: long files, control characters, leftovers
    Tidy,
    /// Run a shell command line once and write what it cost to a file (used by bench)
    #[command(hide = true)]
    Measure { result: PathBuf, line: String },
    /// Read a file by NFS as fast as it goes (used by bench)
    #[command(hide = true)]
    NfsLoad(bench::nfs_load::Load),
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Setup => setup::run().map(drop),
        Task::Test(options) => test::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Guests(options) => guests::run(&options),
        Task::Lint => lint::run(),
        Task::Tidy => tidy::run(),
        Task::Measure { result, line } => bench::measure::once(&result, &line),
        Task::NfsLoad(load) => bench::nfs_load::run(&load),
    }
}
