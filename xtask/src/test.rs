//! `cargo xtask test`: set-up and all tests of the workspace.

use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::{cmd, guests, setup};

/// Environment variable by which tests find the whole corpus of volumes.
const TESTDATA: &str = "REVENANT_TESTDATA";

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Install nothing, and run only the tests that need nothing but cargo
    #[arg(long)]
    quick: bool,
}

/// Runs the subcommand.
pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    if options.quick {
        println!("test: quick: no set-up, no tests against other software");
    } else {
        setup::run()?;
    }
    let mut tests = if cmd::has_cargo("nextest") {
        let mut nextest = cmd::cargo();
        nextest.args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]);
        nextest
    } else {
        let mut plain = cmd::cargo();
        plain.args(["test", "--workspace", "--locked", "--no-fail-fast", "--all-targets"]);
        plain
    };
    if options.quick {
        tests.args(["--lib", "--bins"]);
        tests.env_remove(TESTDATA);
    } else {
        let testdata = std::env::var_os(TESTDATA);
        match &testdata {
            Some(folder) => println!("test: {TESTDATA}={}", folder.to_string_lossy()),
            None => println!("test: {TESTDATA} is not set: only the volumes in tests/data are read"),
        }
    }
    if !options.quick {
        // Making them is mostly waiting; compiling is not.
        let maker = guests::begin()?;
        let built = cmd::run(cmd::cargo().args(["build", "--workspace", "--locked", "--all-targets"]));
        guests::finish(maker)?;
        built?;
        tests.env(guests::VARIABLE, guests::folder());
        tests.envs(guests::client().map(|folder| (guests::CLIENT, folder)));
    }
    cmd::run(&mut tests)?;
    if !options.quick {
        cmd::run(cmd::cargo().args(["test", "--workspace", "--locked", "--doc", "--quiet"]))?;
    }
    println!("test: passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}
