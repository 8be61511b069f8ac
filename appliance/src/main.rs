//! The program `revenant`: Bacula backups that get up and walk.

mod backup;
mod boot_traces;
mod cli;
mod commands;
mod config;
mod daemon;
mod guest_fix;
mod output;
mod progress;
mod recovery;
mod restore;
mod smb;
mod state;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::from_process();
    match commands::run(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            output::error(&e);
            ExitCode::from(2)
        }
    }
}
